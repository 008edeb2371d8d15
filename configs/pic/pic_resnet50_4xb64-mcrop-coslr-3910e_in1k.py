"""PIC, ResNet-50, ImageNet, 160 + 3x96 crops, 3910 windows = 400 epochs.

bash tools/dist_train.sh configs/pic/pic_resnet50_4xb64-mcrop-coslr-3910e_in1k.py 4

Source: https://arxiv.org/abs/2006.14618, https://github.com/bl0/PIC.
Linear top-1: 70.3 published (BatchNorm of the frozen network in training mode); ours not measured.
The windows slide, as in the paper; the released ones do not (--cfg-options train_dataloader.sampler.reshuffle=wrap
train_dataloader.sampler.compat=released).
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/simclr.py', '../_base_/default_runtime.py']

dim, batch_size = 128, 64  # of one of 4 GPUs
num_images, window, passes = 1281167, 131072, 400
max_epochs = -(-passes * num_images // window)  # an epoch is a window
steps = window // (4 * batch_size)  # iterations of a window
warmup = -(-passes // 40 * num_images // window) * steps

model = dict(
    type='PIC',
    backbone=dict(type='ResNet', depth=50, zero_init_residual=True),
    neck=dict(type='MLPNeck', in_dim=2048, hidden_dim=2048, out_dim=dim),
    head=dict(type='PICHead', num_instances=num_images, dim=dim, temperature=0.2, num_large=1),
)

large = [dict(type='RandomResizedCrop', size=160, scale=(0.14, 1.0)), *_base_.augmentation]
small = [dict(type='RandomResizedCrop', size=96, scale=(0.08, 0.14)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=8,
    sampler=dict(_delete_=True, type='SlidingWindowSampler', window=window, stride=16384),
    dataset=dict(
        pipeline=dict(
            type='MultiCrop',
            crops=[dict(num_views=1, transforms=large), dict(num_views=3, transforms=small)],
        )
    ),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4))
# From a hundredth of the rate to all of it, then a cosine, in iterations.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=warmup + 1, by_epoch=False),
    dict(
        type='CosineLR',
        T_max=max_epochs * steps - warmup,
        eta_min=1e-6,
        begin=warmup,
        end=max_epochs * steps,
        by_epoch=False,
    ),
]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=100)
auto_scale_lr = dict(enable=False, base_batch_size=4 * batch_size)
