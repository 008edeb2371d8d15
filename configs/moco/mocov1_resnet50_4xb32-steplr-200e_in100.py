"""MoCo v1, ResNet-50, ImageNet-100, 200 epochs.

bash tools/dist_train.sh configs/moco/mocov1_resnet50_4xb32-steplr-200e_in100.py 4

Source: README of https://github.com/SsnL/moco_align_uniform, batch 128 in all; that it is of 4 GPUs is our choice.
Linear top-1: 73.12 published there; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet100.py', '../_base_/augmentations/moco_v1.py', '../_base_/default_runtime.py']

dim, batch_size = 128, 32  # of one of 4 GPUs

model = dict(
    type='MoCo',
    momentum=0.999,
    backbone=dict(type='ResNet', depth=50),
    neck=dict(type='LinearNeck', in_dim=2048, out_dim=dim),
    head=dict(type='InfoNCEHead', dim=dim, queue_size=65536, temperature=0.07),
)

augmentation = [dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.0)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(pipeline=dict(type='MultiView', num_views=2, transforms=augmentation)),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type='MultiStepLR', milestones=[120, 160], gamma=0.1)]
train_cfg = dict(type='TrainLoop', max_epochs=200, val_interval=20)
auto_scale_lr = dict(enable=False, base_batch_size=4 * batch_size)
