"""CIFAR-100. ``data_root``: the folder with ``cifar-100-python``; it is downloaded where there is a network."""

_base_ = './cifar10.py'

data_root = 'data/cifar100'

loader = dict(dataset=dict(type='CIFAR100', data_root=data_root))
train_dataloader = val_dataloader = bank_dataloader = test_dataloader = loader
val_cfg = test_cfg = dict(bank_dataloader=loader)
del loader
data_preprocessor = dict(
    mean=[0.5071 * 255, 0.4867 * 255, 0.4408 * 255],
    std=[0.2675 * 255, 0.2565 * 255, 0.2761 * 255],
)
