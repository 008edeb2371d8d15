"""DINO, ViT-S/16, ImageNet, 2x224 + 8x96 crops, 100 epochs.

bash tools/dist_train.sh configs/dino/dino_vit-small_8xb64-mcrop-coslr-100e_in1k.py 8

Source: https://arxiv.org/abs/2104.14294, https://github.com/facebookresearch/dino, its command without options.
Linear top-1: 73.8 published, kNN 69.3; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/byol.py', '../_base_/default_runtime.py']

width, dim, batch_size, max_epochs = 384, 65536, 64, 100  # of one of 8 GPUs

model = dict(
    type='DINO',
    momentum=0.996,  # rises to 1 along half a cosine
    num_views=10,
    num_targets=2,
    freeze_epochs=1,
    backbone=dict(
        type='TorchVisionBackbone',
        model_name='VisionTransformer',
        img_size=224,
        dynamic_img_size=True,
        drop_path=0.1,
        model_args=dict(patch_size=16, num_layers=12, num_heads=6, hidden_dim=width, mlp_dim=4 * width),
    ),
    neck=dict(type='DINONeck', in_dim=width, hidden_dim=2048, bottleneck_dim=256, out_dim=dim),
    head=dict(type='DINOHead', dim=dim, temperature=0.1, teacher_temperature=0.04),
)

large = dict(type='RandomResizedCrop', size=224, scale=(0.4, 1.0), interpolation='bicubic')
small = dict(type='RandomResizedCrop', size=96, scale=(0.05, 0.4), interpolation='bicubic')
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

# bfloat16, where the release has float16. 0.0005 for 256 images; biases and norms have no decay.
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.04),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=3.0),
)
param_scheduler = [
    dict(type='RampCosineLR', warmup=10, eta_min=1e-6, convert_to_iter_based=True),
    dict(type='CosineWeightDecay', end_factor=10.0, convert_to_iter_based=True),
]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=20)
auto_scale_lr = dict(enable=False, base_batch_size=8 * batch_size)
