"""DINO, two views on a folder of your own images.

unmix train --data DIR --method dino --mixture none
python tools/train.py configs/quickstart/dino_folder.py --data DIR

The command looks at the images and at the machine, and chooses sizes, epochs and learning rate: docs/custom_data.md.
The numbers below are for some thousand images.
"""

_base_ = ['../_base_/folder.py', '../_base_/default_runtime.py']

max_epochs, dim = 100, 1024

model = dict(
    type='DINO',
    momentum=0.99,  # rises to 1 along half a cosine
    backbone=dict(type='ResNet', depth=18),
    neck=dict(type='DINONeck', in_dim=512, hidden_dim=512, bottleneck_dim=128, out_dim=dim, norm=True),
    head=dict(type='DINOHead', dim=dim, temperature=0.1, teacher_temperature=0.04),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=1e-2))
param_scheduler = [dict(type='CosineLR', by_epoch=False)]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs)
