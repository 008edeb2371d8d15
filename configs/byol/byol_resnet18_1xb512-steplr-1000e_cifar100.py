"""BYOL on CIFAR-100, ResNet-18, 1000 epochs.

python tools/train.py configs/byol/byol_resnet18_1xb512-steplr-1000e_cifar100.py

Source: https://github.com/htdt/self-supervised, on https://arxiv.org/abs/2006.07733.
Linear / 5-NN top-1: 66.60 / 56.82 published, see README.md; ours not measured.
"""

_base_ = ['../_base_/datasets/cifar100.py', '../_base_/augmentations/wmse.py', '../_base_/default_runtime.py']

dim, batch_size, max_epochs = 64, 512, 1000

model = dict(
    type='BYOL',
    momentum=0.99,  # rises to 1 along half a cosine
    momentum_by_epoch=True,
    backbone=dict(type='ResNet', depth=18, stem='cifar'),
    neck=dict(type='MLPNeck', in_dim=512, hidden_dim=1024, out_dim=dim, norm=True, hidden_bias=True),
    predictor=dict(type='MLPNeck', in_dim=dim, hidden_dim=1024, out_dim=dim, norm=True, hidden_bias=True),
    head=dict(type='CosineHead'),
)

augmentation = [
    *_base_.augmentation,
    dict(type='RandomResizedCrop', size=32, scale=(0.2, 1.0), interpolation='bicubic'),
    dict(type='RandomHorizontalFlip'),
]
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(pipeline=dict(type='MultiView', num_views=2, transforms=augmentation)),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=3e-3, weight_decay=1e-6))
# 500 iterations of warm-up, a fifth of the rate 50 and 25 epochs before the end.
param_scheduler = [dict(type='WarmupStepLR', convert_to_iter_based=True, milestones=[max_epochs - 50, max_epochs - 25])]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=20, dynamic_intervals=[(max_epochs - 50, 5)])
auto_scale_lr = dict(enable=False, base_batch_size=batch_size)

# The published protocol: 5 nearest neighbours by majority.
val_evaluator = [dict(type='EuclideanKNN', k=5)]
test_evaluator = [*val_evaluator, dict(type='LinearProbe')]
