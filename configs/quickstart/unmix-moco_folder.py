"""MoCo v2 + Un-Mix on a folder of your own images, with or without labels: some thousand images, one GPU or a CPU.

python tools/train.py configs/quickstart/unmix-moco_folder.py --cfg-options data_root=DIR

Images at any depth below the folder, of any size; they are cropped to 64 px. To add an evaluation: docs/custom_data.md.
No published number; the settings are those of the small data sets here, not tuned to yours.
"""

_base_ = '../_base_/default_runtime.py'

data_root = 'data/images'
max_epochs, size, dim = 100, 64, 128

model = dict(
    type='MoCo',
    momentum=0.99,
    backbone=dict(
        type='ResNet',
        depth=18,
        width=32,
        stem=dict(kernel_size=3, stride=2, padding=1, maxpool=True),
        num_splits=4,
    ),
    neck=dict(type='MLPNeck', in_dim=256, hidden_dim=256, out_dim=dim, norm=True),
    head=dict(type='InfoNCEHead', dim=dim, queue_size=1024, temperature=0.2),  # at most a quarter of the images
    unmix=dict(type='UnMix'),
)
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])

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
    batch_size=128,
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

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='CosineLR', by_epoch=False)]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs)
