"""CMC on a folder of your own images.

unmix train --data DIR --method cmc --mixture none
python tools/train.py configs/quickstart/cmc_folder.py --data DIR

The command looks at the images and at the machine, and chooses sizes, epochs and learning rate: docs/custom_data.md.
The numbers below are for some thousand images.

Two networks, for lightness and colour: CMC is for colour images, and torchvision loads neither.
"""

_base_ = ['../_base_/folder.py', '../_base_/default_runtime.py']

max_epochs, dim = 100, 128
largest = dict(num_negatives=16384)  # of model.head, on many images

model = dict(
    type='CMC',
    backbone=dict(type='TwoBranch', branch=dict(type='ResNet', depth=18, width=32)),
    neck=dict(type='TwoBranchNeck', neck=dict(type='MLPNeck', in_dim=256, hidden_dim=256, out_dim=dim, norm=True)),
    head=dict(type='CMCHead', num_instances=2000, dim=dim, num_negatives=512, temperature=0.1, momentum=0.5),
)
data_preprocessor = dict(_delete_=True, type='ColorPreprocessor', color_space='lab')

# CMC's views are the two groups of channels.
augmentation = [
    dict(type='RandomResizedCrop', size=_base_.size, scale=(0.2, 1.0)),
    dict(type='RandomHorizontalFlip'),
]
train_dataloader = dict(dataset=dict(pipeline=dict(num_views=1, transforms=augmentation)))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.06, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='CosineLR', by_epoch=False)]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs)
