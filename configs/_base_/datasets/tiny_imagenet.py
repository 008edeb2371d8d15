"""Tiny-ImageNet at 64 px. ``data_root``: the folder
``tiny-imagenet-200``, as distributed or with ``val`` rearranged to class folders."""

data_root = 'data/tiny-imagenet-200'
batch_size = 512

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='collate'),
    dataset=dict(type='TinyImageNet', data_root=data_root, split='train'),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=4,
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='collate'),
    dataset=dict(type='TinyImageNet', data_root=data_root, split='test'),
)
bank_dataloader = dict(val_dataloader, dataset=dict(type='TinyImageNet', data_root=data_root, split='train'))
data_preprocessor = dict(
    type='DataPreprocessor',
    mean=[0.480 * 255, 0.448 * 255, 0.398 * 255],
    std=[0.277 * 255, 0.269 * 255, 0.282 * 255],
)

knn = dict(type='KNN', k=200, temperature=0.1)
val_cfg = dict(type='FeatureLoop', bank_dataloader=bank_dataloader)
val_evaluator = [knn]
test_dataloader = val_dataloader
test_cfg = dict(type='FeatureLoop', bank_dataloader=bank_dataloader, controls=True)
test_evaluator = [knn, dict(type='LinearProbe')]
