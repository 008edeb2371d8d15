"""MoCo v3 on a folder of your own images.

unmix train --data DIR --method moco-v3 --mixture none
python tools/train.py configs/quickstart/moco-v3_folder.py --data DIR

The command looks at the images and at the machine, and chooses sizes, epochs and learning rate: docs/custom_data.md.
The numbers below are for some thousand images.
"""

_base_ = ['../_base_/folder.py', '../_base_/default_runtime.py']

max_epochs, dim = 100, 128

model = dict(
    type='BYOL',
    momentum=0.99,  # rises to 1 along half a cosine
    backbone=dict(type='ResNet', depth=18),
    neck=dict(type='MLPNeck', in_dim=512, hidden_dim=512, out_dim=dim, norm=True),
    predictor=dict(type='MLPNeck', in_dim=dim, hidden_dim=512, out_dim=dim, norm=True),
    head=dict(type='MoCoV3Head', temperature=0.2),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='CosineLR', by_epoch=False)]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs)
