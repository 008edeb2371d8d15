"""MNIST: 60,000 and 10,000 grey images of 28 px. ``data_root``: the folder with ``MNIST/raw``, or of the idx files."""

data_root = 'data'
batch_size = 128

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,  # a batch is built as a whole, in a few milliseconds
    drop_last=True,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='collate'),
    dataset=dict(type='MNIST', data_root=data_root, split='train'),
)
val_dataloader = dict(
    batch_size=1000,
    num_workers=0,
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='collate'),
    dataset=dict(type='MNIST', data_root=data_root, split='test'),
)
bank_dataloader = dict(val_dataloader, dataset=dict(type='MNIST', data_root=data_root, split='train'))
# Of the training images.
data_preprocessor = dict(type='DataPreprocessor', mean=[33.33], std=[78.57])

knn = dict(type='KNN', k=20, temperature=0.1)
val_cfg = dict(type='FeatureLoop', bank_dataloader=bank_dataloader)
val_evaluator = [knn]
test_dataloader = val_dataloader
test_cfg = dict(type='FeatureLoop', bank_dataloader=bank_dataloader, controls=True)
test_evaluator = [knn, dict(type='LinearProbe'), dict(type='LinearProbe', labels_per_class=10)]
