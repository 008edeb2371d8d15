"""ImageNet-100, with MoCo v2's augmentation. ``data_root``: ImageNet's folder, or one with the 100 classes only.

Views are made in floats, where the published code rounds to 8 bits after each operation (docs/speed.md measures it);
--cfg-options train_dataloader.dataset.pipeline.backend=pil does so too.
"""

data_root = 'data/imagenet'
class_list = 'imagenet100.txt'  # the classes of CMC; comes with unmix
batch_size = 32  # of one of 4 GPUs

augmentation = [
    dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.0)),
    dict(
        type='RandomApply',
        p=0.8,
        transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)],
    ),
    dict(type='RandomGrayscale', p=0.2),
    dict(type='RandomApply', p=0.5, transforms=[dict(type='PILGaussianBlur', sigma=(0.1, 2.0))]),
    dict(type='RandomHorizontalFlip', p=0.5),
]
centre = dict(type='SingleView', transforms=[dict(type='Resize', size=256), dict(type='CenterCrop', size=224)])

train_set = dict(type='ImageNet', data_root=data_root, split='train', class_list=class_list)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='collate'),
    dataset=dict(train_set, pipeline=dict(type='MultiView', num_views=2, transforms=augmentation)),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=4,
    pin_memory=True,
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='collate'),
    dataset=dict(train_set, split='val', pipeline=centre),
)
bank_dataloader = dict(val_dataloader, dataset=dict(train_set, pipeline=centre))
data_preprocessor = dict(
    type='DataPreprocessor',
    mean=[0.485 * 255, 0.456 * 255, 0.406 * 255],
    std=[0.229 * 255, 0.224 * 255, 0.225 * 255],
)

knn = dict(type='KNN', k=200, temperature=0.1)
val_cfg = dict(type='FeatureLoop', bank_dataloader=bank_dataloader)
val_evaluator = [knn]
test_dataloader = val_dataloader
test_cfg = dict(type='FeatureLoop', bank_dataloader=bank_dataloader, controls=True)
test_evaluator = [knn]
