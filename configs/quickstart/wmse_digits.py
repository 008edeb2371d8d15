"""W-MSE on scikit-learn's handwritten digits, under a minute on a CPU.

python tools/train.py configs/quickstart/wmse_digits.py
"""

_base_ = ['../_base_/datasets/digits.py', '../_base_/augmentations/digits.py', '../_base_/default_runtime.py']

max_epochs, dim = 150, 32
num_threads = 1  # small tensors: a second thread gains little, and results depend on the number

model = dict(
    type='WMSE',
    joint_neck=True,
    backbone=dict(
        type='ResNet', depth=8, in_channels=1, width=16, stem=dict(kernel_size=3, stride=2, padding=1, maxpool=False)
    ),
    neck=dict(type='MLPNeck', in_dim=64, hidden_dim=256, out_dim=dim, norm=True),
    head=dict(type='WMSEHead', sub_batch=2 * dim),
)
train_dataloader = dict(dataset=dict(pipeline=dict(type='BatchMultiView', num_views=2, transforms=_base_.augmentation)))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=0.006, weight_decay=1e-6))
param_scheduler = [dict(type='CosineLR', by_epoch=False)]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=10)
