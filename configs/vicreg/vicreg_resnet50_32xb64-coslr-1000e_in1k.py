"""VICReg, ResNet-50, ImageNet, 1000 epochs.

GPUS=32 bash tools/slurm_train.sh PARTITION JOB \
    configs/vicreg/vicreg_resnet50_32xb64-coslr-1000e_in1k.py

Source: https://arxiv.org/abs/2105.04906, https://github.com/facebookresearch/vicreg.
Linear top-1: 73.2 published; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/byol.py', '../_base_/default_runtime.py']

dim, batch_size = 8192, 64  # of one of 32 GPUs

model = dict(
    type='SimCLR',
    backbone=dict(type='ResNet', depth=50, zero_init_residual=True),
    neck=dict(
        type='MLPNeck',
        in_dim=2048,
        hidden_dim=8192,
        out_dim=dim,
        num_layers=3,
        norm=True,
        hidden_bias=True,
        last_bias=False,
    ),
    head=dict(type='VICRegHead', invariance=25.0, variance=25.0, covariance=1.0),
)
sync_bn = 'torch'

crop = dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0), interpolation='bicubic')
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

# bfloat16, where the release has float16. 0.2 for 256 images; LARS leaves biases and BatchNorm alone.
optim_wrapper = dict(type='AutocastOptimWrapper', optimizer=dict(type='LARS', lr=1.6, momentum=0.9, weight_decay=1e-6))
param_scheduler = [
    dict(type='RampCosineLR', warmup=10, endpoint=False, eta_min_ratio=0.001, convert_to_iter_based=True),
]
train_cfg = dict(type='TrainLoop', max_epochs=1000, val_interval=50)
auto_scale_lr = dict(enable=False, base_batch_size=32 * batch_size)
