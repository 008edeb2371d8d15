"""scikit-learn's digits, 16 px: 1,257 images to train on, 540 to test on, 510 of them of other writers."""

batch_size, size = 128, 16

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,  # a batch is built as a whole, in a few milliseconds
    drop_last=True,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='collate'),
    dataset=dict(type='Digits', split='train', size=size),
)
val_dataloader = dict(
    batch_size=540,
    num_workers=0,
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='collate'),
    dataset=dict(type='Digits', split='test', size=size),
)
bank_dataloader = dict(val_dataloader, dataset=dict(type='Digits', split='train', size=size))
# Of the training images at 16 px.
data_preprocessor = dict(type='DataPreprocessor', mean=[79.88], std=[90.37])

knn = dict(type='KNN', k=20, temperature=0.1)
val_cfg = dict(type='FeatureLoop', bank_dataloader=bank_dataloader)
val_evaluator = [knn]
test_dataloader = val_dataloader
test_cfg = dict(type='FeatureLoop', bank_dataloader=bank_dataloader, controls=True)
test_evaluator = [knn, dict(type='LinearProbe'), dict(type='LinearProbe', labels_per_class=10)]
