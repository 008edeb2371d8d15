"""W-MSE with 2 views on Tiny-ImageNet, ResNet-18, 1000 epochs.

python tools/train.py configs/wmse/wmse2_resnet18_1xb512-steplr-1000e_tiny-imagenet.py

Source: https://github.com/htdt/self-supervised.
Linear / 5-NN top-1: 48.20 / 34.16 published, see README.md; ours not measured.
"""

_base_ = ['../_base_/datasets/tiny_imagenet.py', '../_base_/augmentations/wmse.py', '../_base_/default_runtime.py']

dim, batch_size, max_epochs = 128, 512, 1000

model = dict(
    type='WMSE',
    joint_neck=True,  # its BatchNorm sees all views at once
    backbone=dict(type='ResNet', depth=18, stem='cifar-pool'),
    neck=dict(type='MLPNeck', in_dim=512, hidden_dim=1024, out_dim=dim, norm=True, hidden_bias=True),
    head=dict(type='WMSEHead', sub_batch=2 * dim, draws=4),
)

augmentation = [
    *_base_.augmentation,
    dict(type='RandomResizedCrop', size=64, scale=(0.2, 1.0), interpolation='bicubic'),
    dict(type='RandomHorizontalFlip'),
]
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(pipeline=dict(type='MultiView', num_views=2, transforms=augmentation)),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=2e-3, weight_decay=1e-6))
# 500 iterations of warm-up, a fifth of the rate 50 and 25 epochs before the end.
param_scheduler = [dict(type='WarmupStepLR', convert_to_iter_based=True, milestones=[max_epochs - 50, max_epochs - 25])]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=20, dynamic_intervals=[(max_epochs - 50, 5)])
auto_scale_lr = dict(enable=False, base_batch_size=batch_size)

# The published protocol: 5 nearest neighbours by majority.
val_evaluator = [dict(type='EuclideanKNN', k=5)]
test_evaluator = [*val_evaluator, dict(type='LinearProbe')]
