"""STL-10 at 64 px: all 105,000 images but those of the test set to train
on, the 5,000 labelled ones as bank. ``data_root``: the folder with ``stl10_binary``; it is downloaded where there is a
network."""

data_root = 'data/stl10'
batch_size = 512

centre = dict(
    type='SingleView',
    transforms=[dict(type='Resize', size=70, interpolation='bicubic'), dict(type='CenterCrop', size=64)],
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='collate'),
    dataset=dict(type='STL10', data_root=data_root, split='train+unlabeled'),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=4,
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='collate'),
    dataset=dict(type='STL10', data_root=data_root, split='test', pipeline=centre),
)
bank_dataloader = dict(val_dataloader, dataset=dict(type='STL10', data_root=data_root, split='train', pipeline=centre))
data_preprocessor = dict(
    type='DataPreprocessor',
    mean=[0.43 * 255, 0.42 * 255, 0.39 * 255],
    std=[0.27 * 255, 0.26 * 255, 0.27 * 255],
)

knn = dict(type='KNN', k=200, temperature=0.1)
val_cfg = dict(type='FeatureLoop', bank_dataloader=bank_dataloader)
val_evaluator = [knn]
test_dataloader = val_dataloader
test_cfg = dict(type='FeatureLoop', bank_dataloader=bank_dataloader, controls=True)
test_evaluator = [knn, dict(type='LinearProbe')]
