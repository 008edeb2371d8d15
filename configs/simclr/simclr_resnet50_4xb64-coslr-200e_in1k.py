"""SimCLR in the form of the PIC repository, ResNet-50, ImageNet, 200 epochs.

bash tools/dist_train.sh configs/simclr/simclr_resnet50_4xb64-coslr-200e_in1k.py 4

Source: https://github.com/bl0/PIC, on https://arxiv.org/abs/2002.05709.
Linear top-1: 66.6 published there; ours not measured.
Here gradients flow through gathered features too; head.gradient='query_only' is the released code.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/simclr.py', '../_base_/default_runtime.py']

dim, batch_size, max_epochs = 128, 64, 200  # of one of 4 GPUs
steps = 1281167 // (4 * batch_size)  # iterations of an epoch
warmup = 5 * steps

model = dict(
    type='SimCLR',
    backbone=dict(type='ResNet', depth=50, zero_init_residual=True),
    neck=dict(type='MLPNeck', in_dim=2048, hidden_dim=2048, out_dim=dim),
    head=dict(type='NTXentHead', temperature=0.1),
)
sync_bn = 'torch'

augmentation = [dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=8,
    dataset=dict(pipeline=dict(type='MultiView', num_views=2, transforms=augmentation)),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='LARS', lr=0.3, momentum=0.9, weight_decay=1e-6))
# From a hundredth of the rate to all of it in 5 epochs, then a cosine, in iterations.
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
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=10)
auto_scale_lr = dict(enable=False, base_batch_size=4 * batch_size)
