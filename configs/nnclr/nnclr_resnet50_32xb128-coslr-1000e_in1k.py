"""NNCLR, ResNet-50, ImageNet, 1000 epochs.

GPUS=32 bash tools/slurm_train.sh PARTITION JOB \
    configs/nnclr/nnclr_resnet50_32xb128-coslr-1000e_in1k.py

Source: https://arxiv.org/abs/2104.14548, Sec. 4. No code is released; the abstract's figure is with multi-crop.
Linear top-1: none published of these two views at hand; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/byol.py', '../_base_/default_runtime.py']

dim, batch_size = 256, 128  # of one of 32 GPUs

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
    head=dict(type='NNCLRHead', dim=dim, hidden_dim=4096, queue_size=98304, temperature=0.1),
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

# 0.3 for 256 images; LARS leaves biases and BatchNorm alone.
optim_wrapper = dict(type='AutocastOptimWrapper', optimizer=dict(type='LARS', lr=4.8, momentum=0.9, weight_decay=1e-6))
param_scheduler = [dict(type='RampCosineLR', warmup=10, endpoint=False, convert_to_iter_based=True)]
train_cfg = dict(type='TrainLoop', max_epochs=1000, val_interval=50)
auto_scale_lr = dict(enable=False, base_batch_size=32 * batch_size)
