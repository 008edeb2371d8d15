"""SwAV on CIFAR-100, 400 epochs, as Un-Mix was published with.

python tools/train.py configs/swav/swav_resnet26_1xb128-coslr-400e_cifar100.py

Source: https://github.com/szq0214/Un-Mix (UnMix_SwAV), on https://arxiv.org/abs/2006.09882.
Linear top-1: 64.5 published; ours not measured.
"""

_base_ = ['../_base_/datasets/cifar100.py', '../_base_/augmentations/moco_cifar.py', '../_base_/default_runtime.py']

dim, batch_size = 128, 128

# The release calls this ResNet-18: bottleneck blocks 2-2-2-2, and images padded once more before the stem. Its queue of
# 120 is rounded down to none, a multiple of the batch.
model = dict(
    type='SwAV',
    backbone=dict(type='ResNet', depth=26, stem=dict(kernel_size=3, stride=1, padding=2)),
    neck=dict(type='MLPNeck', in_dim=2048, hidden_dim=512, out_dim=dim, norm=True, hidden_bias=True),
    head=dict(type='SwAVHead', dim=dim, num_prototypes=100, temperature=0.1, epsilon=0.05, freeze_steps=5005),
)
# CIFAR-10's, as in the released code.
data_preprocessor = dict(
    mean=[0.4914 * 255, 0.4822 * 255, 0.4465 * 255],
    std=[0.2023 * 255, 0.1994 * 255, 0.2010 * 255],
)

augmentation = [dict(type='RandomResizedCrop', size=32, scale=(0.14, 1.0)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(pipeline=dict(type='MultiView', num_views=2, transforms=augmentation)),
)

# bfloat16, where the release has float16.
optim_wrapper = dict(type='AutocastOptimWrapper', optimizer=dict(type='LARC', lr=0.6, momentum=0.9, weight_decay=1e-6))
param_scheduler = [dict(type='RampCosineLR', warmup=5, eta_min=0.0006, convert_to_iter_based=True)]
train_cfg = dict(type='TrainLoop', max_epochs=400, val_interval=10)
auto_scale_lr = dict(enable=False, base_batch_size=batch_size)
