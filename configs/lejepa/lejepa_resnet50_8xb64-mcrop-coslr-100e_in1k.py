"""LeJEPA, ResNet-50, ImageNet, 2x224 + 6x98 crops, 100 epochs.

bash tools/dist_train.sh configs/lejepa/lejepa_resnet50_8xb64-mcrop-coslr-100e_in1k.py 8

Source: https://arxiv.org/abs/2511.08544, https://github.com/rbalestr-lab/lejepa, its numbers for ResNets; batch,
warm-up and projector are ours. Linear top-1: none published of this network at hand; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/byol.py', '../_base_/default_runtime.py']

dim, batch_size = 128, 64  # of one of 8 GPUs

model = dict(
    type='LeJEPA',
    num_views=8,
    num_global=2,
    backbone=dict(type='ResNet', depth=50),
    neck=dict(type='MLPNeck', in_dim=2048, hidden_dim=2048, out_dim=dim, num_layers=3, norm=True, hidden_bias=True),
    head=dict(type='LeJEPAHead', weight=0.05, directions=1024),
)
sync_bn = 'torch'

first, second = _base_.augmentation
augmentation = [*first[:-1], dict(type='RandomApply', p=0.5, transforms=first[-1:]), second[-1]]
large = dict(type='RandomResizedCrop', size=224, scale=(0.3, 1.0))
small = dict(type='RandomResizedCrop', size=98, scale=(0.05, 0.3))
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=8,
    dataset=dict(
        pipeline=dict(
            type='MultiCrop',
            crops=[
                dict(num_views=2, transforms=[large, *augmentation]),
                dict(num_views=6, transforms=[small, *augmentation]),
            ],
        )
    ),
)

optim_wrapper = dict(type='AutocastOptimWrapper', optimizer=dict(type='AdamW', lr=5e-4, weight_decay=5e-4))
param_scheduler = [dict(type='RampCosineLR', warmup=1, eta_min_ratio=0.001, convert_to_iter_based=True)]
train_cfg = dict(type='TrainLoop', max_epochs=100, val_interval=20)
auto_scale_lr = dict(enable=False, base_batch_size=8 * batch_size)
