"""MoCo on CIFAR-10, symmetric loss, ResNet-18, 1000 epochs: the CIFAR demo of MoCo as Un-Mix was published with.

python tools/train.py configs/moco/moco-sym_resnet18_1xb512-coslr-1000e_cifar10.py

Source: https://github.com/szq0214/Un-Mix (unmix_c10), on https://arxiv.org/abs/1911.05722.
kNN top-1 (k=200, on the 128-d projection): 90.49 published; ours not measured.
"""

_base_ = ['../_base_/datasets/cifar10.py', '../_base_/augmentations/moco_cifar.py', '../_base_/default_runtime.py']

dim, batch_size = 128, 512

# A batch of one device in 8 groups, each with its own BatchNorm statistics, stands for 8 GPUs.
model = dict(
    type='MoCo',
    symmetric=True,
    momentum=0.99,
    backbone=dict(type='ResNet', depth=18, stem='cifar', num_splits=8),
    neck=dict(type='LinearNeck', in_dim=512, out_dim=dim),
    head=dict(type='InfoNCEHead', dim=dim, queue_size=4096, temperature=0.1),
)

augmentation = [dict(type='RandomResizedCrop', size=32, scale=(0.08, 1.0)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(pipeline=dict(type='MultiView', num_views=2, transforms=augmentation)),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.06, momentum=0.9, weight_decay=5e-4))
# Epochs are counted from 1: the first is below the full rate, the last has a rate of exactly 0.
param_scheduler = [dict(type='CosineLR', first_epoch=1)]
train_cfg = dict(type='TrainLoop', max_epochs=1000, val_interval=10)
auto_scale_lr = dict(enable=False, base_batch_size=batch_size)

# The published protocol is kNN on the projection. The final test is of the backbone's features.
val_cfg = dict(stage='neck')
