"""SwAV, ResNet-50, ImageNet, 2x224 + 6x96 crops, batch 256, 400 epochs.

bash tools/dist_train.sh configs/swav/swav_resnet50_4xb64-mcrop-coslr-400e_in1k.py 4

Source: https://arxiv.org/abs/2006.09882, https://github.com/facebookresearch/swav.
Linear top-1: 74.3 published; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/simclr.py', '../_base_/default_runtime.py']

dim, batch_size = 128, 64  # of one of 4 GPUs

model = dict(
    type='SwAV',
    backbone=dict(type='ResNet', depth=50),
    neck=dict(type='MLPNeck', in_dim=2048, hidden_dim=2048, out_dim=dim, norm=True, hidden_bias=True),
    head=dict(
        type='SwAVHead',
        dim=dim,
        num_prototypes=3000,
        temperature=0.1,
        epsilon=0.05,
        queue_size=3840,
        queue_start=15,
        freeze_steps=5005,
    ),
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
            crops=[dict(num_views=2, transforms=large), dict(num_views=6, transforms=small)],
        )
    ),
)

# bfloat16, where the release has float16.
optim_wrapper = dict(type='AutocastOptimWrapper', optimizer=dict(type='LARC', lr=0.6, momentum=0.9, weight_decay=1e-6))
param_scheduler = [dict(type='RampCosineLR', eta_min=0.0006, convert_to_iter_based=True)]
train_cfg = dict(type='TrainLoop', max_epochs=400, val_interval=20)
auto_scale_lr = dict(enable=False, base_batch_size=4 * batch_size)
