"""ImageNet-100: ImageNet's images of 100 classes. ``data_root``: ImageNet's folder, or one with these classes only."""

_base_ = './imagenet.py'

class_list = 'imagenet100.txt'  # the classes of CMC; comes with unmix

train_set = dict(class_list=class_list)
loader = dict(dataset=train_set)
train_dataloader = val_dataloader = bank_dataloader = test_dataloader = loader
val_cfg = test_cfg = dict(bank_dataloader=loader)
del loader
