"""The images below a folder, labelled or not, at 64 px. ``data_root``: the folder."""

data_root = 'data/images'
batch_size, size = 128, 64

augmentation = [
    dict(type='RandomResizedCrop', size=size, scale=(0.2, 1.0)),
    dict(
        type='RandomApply',
        p=0.8,
        transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)],
    ),
    dict(type='RandomGrayscale', p=0.2),
    dict(type='RandomApply', p=0.5, transforms=[dict(type='PILGaussianBlur', sigma=(0.1, 1.0))]),
    dict(type='RandomHorizontalFlip'),
]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='collate'),
    dataset=dict(
        type='ImageFolder',
        data_root=data_root,
        pipeline=dict(type='MultiView', num_views=2, transforms=augmentation),
    ),
)
data_preprocessor = dict(type='DataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
