"""CIFAR-100, with the augmentation that MoCo's and Un-Mix's CIFAR demos share. ``data_root``: the folder with
``cifar-100-python``; it is downloaded where there is a network.

Views are made in floats, where the published code rounds to 8 bits after each operation (docs/speed.md measures it);
--cfg-options train_dataloader.dataset.pipeline.backend=pil does so too.
"""

data_root = 'data/cifar100'
batch_size = 512

augmentation = [
    dict(type='RandomResizedCrop', size=32, scale=(0.08, 1.0)),
    dict(type='RandomHorizontalFlip', p=0.5),
    dict(
        type='RandomApply',
        p=0.8,
        transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)],
    ),
    dict(type='RandomGrayscale', p=0.2),
]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='collate'),
    dataset=dict(
        type='CIFAR100',
        data_root=data_root,
        split='train',
        pipeline=dict(type='MultiView', num_views=2, transforms=augmentation),
    ),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=0,  # in memory and not augmented
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='collate'),
    dataset=dict(type='CIFAR100', data_root=data_root, split='test'),
)
bank_dataloader = dict(val_dataloader, dataset=dict(type='CIFAR100', data_root=data_root, split='train'))
# CIFAR-10's, as in the released code.
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
