"""DINO, ResNet-50, ImageNet, 2x224 + 8x96 crops, 100 epochs.

bash tools/dist_train.sh configs/dino/dino_resnet50_8xb64-mcrop-coslr-100e_in1k.py 8

Source: https://arxiv.org/abs/2104.14294, https://github.com/facebookresearch/dino, its command for convnets.
Linear top-1: none published of 100 epochs; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/byol.py', '../_base_/default_runtime.py']

dim, batch_size, max_epochs = 65536, 64, 100  # of one of 8 GPUs

model = dict(
    type='DINO',
    momentum=0.996,  # rises to 1 along half a cosine
    num_views=10,
    num_targets=2,
    freeze_epochs=1,
    backbone=dict(type='ResNet', depth=50),
    neck=dict(type='DINONeck', in_dim=2048, hidden_dim=2048, bottleneck_dim=256, out_dim=dim),
    head=dict(type='DINOHead', dim=dim, temperature=0.1, teacher_temperature=0.04),
)
sync_bn = 'torch'

large = dict(type='RandomResizedCrop', size=224, scale=(0.14, 1.0), interpolation='bicubic')
small = dict(type='RandomResizedCrop', size=96, scale=(0.05, 0.14), interpolation='bicubic')
first, second = _base_.augmentation
blur = dict(type='RandomApply', p=0.5, transforms=first[-1:])  # in the place of one that is always there
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=8,
    dataset=dict(
        pipeline=dict(
            type='MultiCrop',
            crops=[
                dict(num_views=1, transforms=[large, *first]),
                dict(num_views=1, transforms=[large, *second]),
                dict(num_views=8, transforms=[small, *first[:-1], blur]),
            ],
        )
    ),
)

# bfloat16, where the release has float16. 0.03 for 256 images; no decay of biases and BatchNorm.
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='SGD', lr=0.06, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=3.0),
)
param_scheduler = [dict(type='RampCosineLR', warmup=10, eta_min=1e-6, convert_to_iter_based=True)]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=20)
auto_scale_lr = dict(enable=False, base_batch_size=8 * batch_size)
