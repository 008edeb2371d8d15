"""MoCo v2, ResNet-50, ImageNet, 800 epochs.

bash tools/dist_train.sh configs/moco/mocov2_resnet50_8xb32-coslr-800e_in1k.py 8

Source: https://arxiv.org/abs/2003.04297, https://github.com/facebookresearch/moco.
Linear top-1: 71.1 published; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/moco_v2.py', '../_base_/default_runtime.py']

dim, batch_size = 128, 32  # of one of 8 GPUs

model = dict(
    type='MoCo',
    momentum=0.999,
    backbone=dict(type='ResNet', depth=50),
    neck=dict(type='MLPNeck', in_dim=2048, hidden_dim=2048, out_dim=dim),
    head=dict(type='InfoNCEHead', dim=dim, queue_size=65536, temperature=0.2),
)

augmentation = [dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.0)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(pipeline=dict(type='MultiView', num_views=2, transforms=augmentation)),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type='CosineLR')]
train_cfg = dict(type='TrainLoop', max_epochs=800, val_interval=20)
auto_scale_lr = dict(enable=False, base_batch_size=8 * batch_size)
