"""MoCo in the form of the CMC repository (softmax, K = 16384), ResNet-50, ImageNet-100, 240 epochs.

bash tools/dist_train.sh configs/cmc/moco-cmc_resnet50_4xb32-steplr-240e_in100.py 4

Source: https://github.com/HobbitLong/CMC, on https://arxiv.org/abs/1911.05722.
Linear top-1: 73.4 published there; ours not measured.
Its other form: model.head=dict(type='QueueNCEHead', num_instances=..., ...).
"""

_base_ = ['../_base_/datasets/imagenet100.py', '../_base_/augmentations/moco_v1.py', '../_base_/default_runtime.py']

dim, batch_size = 128, 32  # of one of 4 GPUs

model = dict(
    type='MoCo',
    momentum=0.999,
    backbone=dict(type='ResNet', depth=50),
    neck=dict(type='LinearNeck', in_dim=2048, out_dim=dim),
    head=dict(type='InfoNCEHead', dim=dim, queue_size=16384, temperature=0.07),
)

augmentation = [dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.0)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    drop_last=False,
    dataset=dict(pipeline=dict(type='MultiView', num_views=2, transforms=augmentation)),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type='MultiStepLR', milestones=[120, 160, 200], gamma=0.1)]
train_cfg = dict(type='TrainLoop', max_epochs=240, val_interval=10)
auto_scale_lr = dict(enable=False, base_batch_size=4 * batch_size)
