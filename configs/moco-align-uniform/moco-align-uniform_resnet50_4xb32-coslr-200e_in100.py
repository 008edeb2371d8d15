"""MoCo v2's network and augmentation with alignment and uniformity, ResNet-50, ImageNet-100, 200 epochs.

bash tools/dist_train.sh configs/moco-align-uniform/moco-align-uniform_resnet50_4xb32-coslr-200e_in100.py 4

Source: README of https://github.com/SsnL/moco_align_uniform, batch 128 in all; that it is of 4 GPUs is our
choice, and matters: pairs inside a batch are those of a GPU. On https://arxiv.org/abs/2005.10242.
Linear top-1: 77.66 published there; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet100.py', '../_base_/augmentations/moco_v2.py', '../_base_/default_runtime.py']

dim, batch_size = 128, 32  # of one of 4 GPUs

model = dict(
    type='MoCo',
    momentum=0.999,
    backbone=dict(type='ResNet', depth=50),
    neck=dict(type='MLPNeck', in_dim=2048, hidden_dim=2048, out_dim=dim),
    head=dict(
        type='AlignUniformHead',
        dim=dim,
        queue_size=65536,
        align_weight=3.0,
        alpha=2.0,
        uniform_weight=1.0,
        t=3.0,
    ),
)

augmentation = [dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.0)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(pipeline=dict(type='MultiView', num_views=2, transforms=augmentation)),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type='CosineLR')]
train_cfg = dict(type='TrainLoop', max_epochs=200, val_interval=10)
auto_scale_lr = dict(enable=False, base_batch_size=4 * batch_size)
