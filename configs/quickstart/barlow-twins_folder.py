"""Barlow Twins on a folder of your own images.

unmix train --data DIR --method barlow-twins --mixture none
python tools/train.py configs/quickstart/barlow-twins_folder.py --data DIR

The command looks at the images and at the machine, and chooses sizes, epochs and learning rate: docs/custom_data.md.
The numbers below are for some thousand images.
"""

_base_ = ['../_base_/folder.py', '../_base_/default_runtime.py']

max_epochs, dim = 100, 128

model = dict(
    type='SimCLR',
    backbone=dict(type='ResNet', depth=18),
    neck=dict(type='MLPNeck', in_dim=512, hidden_dim=512, out_dim=dim, norm=True, last_bias=False),
    head=dict(type='BarlowTwinsHead', off_diagonal=0.0051),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=2e-3, weight_decay=1e-6))
param_scheduler = [dict(type='CosineLR', by_epoch=False)]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs)
