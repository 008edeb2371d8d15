"""MoCo v3, ResNet-50, ImageNet, 100 epochs.

GPUS=16 bash tools/slurm_train.sh PARTITION JOB \
    configs/moco-v3/moco-v3_resnet50_16xb256-coslr-100e_in1k.py

Source: https://arxiv.org/abs/2104.02057, https://github.com/facebookresearch/moco-v3.
Linear top-1: 68.9 published; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/byol.py', '../_base_/default_runtime.py']

dim, batch_size, max_epochs = 256, 256, 100  # of one of 16 GPUs

mlp = dict(type='MLPNeck', hidden_dim=4096, out_dim=dim, norm=True, last_bias=False, last_norm=True)
model = dict(
    type='BYOL',
    momentum=0.99,  # rises to 1 along half a cosine
    backbone=dict(type='ResNet', depth=50, zero_init_residual=True),
    neck=dict(mlp, in_dim=2048),
    predictor=dict(mlp, in_dim=dim),
    head=dict(type='MoCoV3Head', temperature=1.0),
)
sync_bn = 'torch'

crop = dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.0))
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

# bfloat16, where the release has float16. 0.6 for 256 images; LARS leaves biases and BatchNorm alone.
optim_wrapper = dict(type='AutocastOptimWrapper', optimizer=dict(type='LARS', lr=9.6, momentum=0.9, weight_decay=1e-6))
param_scheduler = [dict(type='RampCosineLR', warmup=10, endpoint=False, convert_to_iter_based=True)]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=20)
auto_scale_lr = dict(enable=False, base_batch_size=16 * batch_size)
