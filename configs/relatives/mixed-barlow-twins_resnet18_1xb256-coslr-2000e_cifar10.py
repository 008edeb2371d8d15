"""Mixed Barlow Twins on CIFAR-10, ResNet-18, 2000 epochs: features of a mixture are the mixture of the features.

python tools/train.py configs/relatives/mixed-barlow-twins_resnet18_1xb256-coslr-2000e_cifar10.py

Source: https://github.com/wgcban/mix-bt (scripts-pretrain-resnet18/cifar10.sh), on https://arxiv.org/abs/2312.02151.
kNN / linear top-1: 90.52 / 92.58 published, the best of the tests during the training; ours not measured.
"""

_base_ = ['../_base_/datasets/cifar10.py', '../_base_/augmentations/moco_cifar.py', '../_base_/default_runtime.py']

dim, batch_size, max_epochs = 1024, 256, 2000

model = dict(
    type='MixedBarlowTwins',
    backbone=dict(type='ResNet', depth=18, stem='cifar'),
    neck=dict(type='MLPNeck', in_dim=512, hidden_dim=512, out_dim=dim, norm=True),
    # Of features of unit length, where a dimension has a variance of 1 / 1024.
    head=dict(type='BarlowTwinsHead', off_diagonal=0.0078125, eps=1e-12, unit_length=True),
    unmix=dict(type='UnMix', mixing=dict(type='Mixup', alpha=1.0), partner='random', loss_weight=4.0),
)

augmentation = [dict(type='RandomResizedCrop', size=32, scale=(0.08, 1.0)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(pipeline=dict(type='MultiView', num_views=2, transforms=augmentation)),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=0.01, weight_decay=1e-6))
param_scheduler = [
    dict(type='RampCosineLR', warmup=10, endpoint=False, eta_min_ratio=0.001, convert_to_iter_based=True),
]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=20)
auto_scale_lr = dict(enable=False, base_batch_size=batch_size)

# The published protocol.
val_evaluator = [dict(type='KNN', k=200, temperature=0.5)]
test_evaluator = [*val_evaluator, dict(type='LinearProbe')]
