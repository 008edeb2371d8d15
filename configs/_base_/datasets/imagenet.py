"""ImageNet. ``data_root``: the folder with ``train`` and ``val``, of class folders.

``exif=False``: images are seen as they are stored, as in the released codes; their EXIF orientation is not read.
"""

data_root = 'data/imagenet'
batch_size = 32  # of one of 8 GPUs

centre = dict(type='SingleView', transforms=[dict(type='Resize', size=256), dict(type='CenterCrop', size=224)])

train_set = dict(type='ImageNet', data_root=data_root, split='train', exif=False)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='collate'),
    dataset=train_set,
)
val_dataloader = dict(
    batch_size=128,
    num_workers=4,
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
