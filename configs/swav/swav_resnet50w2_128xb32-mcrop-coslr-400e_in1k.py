"""SwAV, ResNet-50 of width 2, ImageNet, 2x224 + 4x96 crops, 400 epochs.

GPUS=128 bash tools/slurm_train.sh PARTITION JOB \
    configs/swav/swav_resnet50w2_128xb32-mcrop-coslr-400e_in1k.py

Source: https://arxiv.org/abs/2006.09882, https://github.com/facebookresearch/swav.
Linear top-1: 77.3 published; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/simclr.py', '../_base_/default_runtime.py']

dim, batch_size = 128, 32  # of one of 128 GPUs

model = dict(
    type='SwAV',
    backbone=dict(type='ResNet', depth=50, width=128),
    neck=dict(type='MLPNeck', in_dim=4096, hidden_dim=8192, out_dim=dim, norm=True, hidden_bias=True),
    head=dict(type='SwAVHead', dim=dim, num_prototypes=3000, temperature=0.1, epsilon=0.05, freeze_steps=313),
)
sync_bn = 'torch'
# As released: the first value is usually 0.229.
data_preprocessor = dict(std=[0.228 * 255, 0.224 * 255, 0.225 * 255])

large = [dict(type='RandomResizedCrop', size=224, scale=(0.14, 1.0)), *_base_.augmentation]
small = [dict(type='RandomResizedCrop', size=96, scale=(0.05, 0.14)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=8,
    dataset=dict(
        pipeline=dict(
            type='MultiCrop',
            crops=[dict(num_views=2, transforms=large), dict(num_views=4, transforms=small)],
        )
    ),
)

# bfloat16, where the release has float16.
optim_wrapper = dict(type='AutocastOptimWrapper', optimizer=dict(type='LARC', lr=4.8, momentum=0.9, weight_decay=1e-6))
param_scheduler = [dict(type='RampCosineLR', warmup=10, warmup_lr=0.3, eta_min=0.0048, convert_to_iter_based=True)]
train_cfg = dict(type='TrainLoop', max_epochs=400, val_interval=20)
auto_scale_lr = dict(enable=False, base_batch_size=128 * batch_size)
