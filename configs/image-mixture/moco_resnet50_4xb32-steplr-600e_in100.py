"""MoCo in the form of the CMC repository, ResNet-50, ImageNet-100, 600 epochs: the baseline of 2020's image mixtures.

bash tools/dist_train.sh configs/image-mixture/moco_resnet50_4xb32-steplr-600e_in100.py 4

Source: https://github.com/szq0214/Rethinking-Image-Mixture.
Linear top-1: 77.5 published (read off a curve, +-0.2); ours not measured.
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

augmentation = [dict(type='RandomResizedCrop', size=224, scale=(0.1, 1.0)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    drop_last=False,
    dataset=dict(pipeline=dict(type='MultiView', num_views=2, transforms=augmentation)),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type='MultiStepLR', milestones=[360, 480, 540], gamma=0.1)]
train_cfg = dict(type='TrainLoop', max_epochs=600, val_interval=10)
auto_scale_lr = dict(enable=False, base_batch_size=4 * batch_size)
