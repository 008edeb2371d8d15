"""CIFAR-10. ``data_root``: the folder with ``cifar-10-batches-py``; it is downloaded where there is a network."""

data_root = 'data/cifar10'
batch_size = 512

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='collate'),
    dataset=dict(type='CIFAR10', data_root=data_root, split='train'),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=0,  # in memory and not augmented
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='collate'),
    dataset=dict(type='CIFAR10', data_root=data_root, split='test'),
)
bank_dataloader = dict(val_dataloader, dataset=dict(type='CIFAR10', data_root=data_root, split='train'))
data_preprocessor = dict(
    type='DataPreprocessor',
    mean=[0.4914 * 255, 0.4822 * 255, 0.4465 * 255],
    std=[0.2023 * 255, 0.1994 * 255, 0.2010 * 255],
)

knn = dict(type='KNN', k=200, temperature=0.1)
val_cfg = dict(type='FeatureLoop', bank_dataloader=bank_dataloader)
val_evaluator = [knn]
test_dataloader = val_dataloader
test_cfg = dict(type='FeatureLoop', bank_dataloader=bank_dataloader, controls=True)
test_evaluator = [knn, dict(type='LinearProbe')]
