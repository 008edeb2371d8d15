"""MoCo v3, ViT-S/16 with 12 heads, ImageNet, 300 epochs.

bash tools/dist_train.sh configs/moco-v3/moco-v3_vit-small_8xb128-coslr-300e_in1k.py 8

Source: https://arxiv.org/abs/2104.02057, https://github.com/facebookresearch/moco-v3, its command for one node.
Linear top-1: 73.2 published; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/byol.py', '../_base_/default_runtime.py']

width, dim, batch_size, max_epochs = 384, 256, 128, 300  # of one of 8 GPUs

mlp = dict(type='MLPNeck', hidden_dim=4096, out_dim=dim, norm=True, last_bias=False, last_norm=True)
model = dict(
    type='BYOL',
    momentum=0.99,  # rises to 1 along half a cosine
    backbone=dict(
        type='TorchVisionBackbone',
        model_name='VisionTransformer',
        img_size=224,
        freeze_patch_embed=True,
        fixed_positions=True,
        model_args=dict(patch_size=16, num_layers=12, num_heads=12, hidden_dim=width, mlp_dim=4 * width),
    ),
    neck=dict(mlp, in_dim=width, num_layers=3),
    predictor=dict(mlp, in_dim=dim),
    head=dict(type='MoCoV3Head', temperature=0.2),
)
sync_bn = 'torch'

crop = dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0))
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=8,
    dataset=dict(
        pipeline=dict(
            type='MultiCrop',
            crops=[dict(num_views=1, transforms=[crop, *transforms]) for transforms in _base_.augmentation],
        )
    ),
)

# bfloat16, where the release has float16. 1.5e-4 for 256 images; all parameters decay.
optim_wrapper = dict(type='AutocastOptimWrapper', optimizer=dict(type='AdamW', lr=6e-4, weight_decay=0.1))
param_scheduler = [dict(type='RampCosineLR', warmup=40, endpoint=False, convert_to_iter_based=True)]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=20)
auto_scale_lr = dict(enable=False, base_batch_size=8 * batch_size)
