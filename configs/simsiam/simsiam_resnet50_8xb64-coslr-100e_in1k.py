"""SimSiam, ResNet-50, ImageNet, 100 epochs.

bash tools/dist_train.sh configs/simsiam/simsiam_resnet50_8xb64-coslr-100e_in1k.py 8

Source: https://arxiv.org/abs/2011.10566, https://github.com/facebookresearch/simsiam (--fix-pred-lr).
Linear top-1: 68.1 published; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/moco_v2.py', '../_base_/default_runtime.py']

dim, batch_size = 2048, 64  # of one of 8 GPUs

model = dict(
    type='SimCLR',
    backbone=dict(type='ResNet', depth=50, zero_init_residual=True),
    neck=dict(
        type='MLPNeck',
        in_dim=2048,
        hidden_dim=2048,
        out_dim=dim,
        num_layers=3,
        norm=True,
        last_bias=False,
        last_norm=True,
    ),
    head=dict(type='SimSiamHead', dim=dim, hidden_dim=512),
)
sync_bn = 'torch'

augmentation = [dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.0)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=8,
    dataset=dict(pipeline=dict(type='MultiView', num_views=2, transforms=augmentation)),
)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys={'head.predictor': dict(constant_lr=True)}),
)
param_scheduler = [dict(type='CosineLR')]
train_cfg = dict(type='TrainLoop', max_epochs=100, val_interval=20)
auto_scale_lr = dict(enable=False, base_batch_size=8 * batch_size)
