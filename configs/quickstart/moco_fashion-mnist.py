"""MoCo on 10,000 images of Fashion-MNIST, a few minutes on two CPU cores.

python tools/train.py configs/quickstart/moco_fashion-mnist.py
"""

_base_ = ['../_base_/datasets/fashion_mnist.py', '../_base_/default_runtime.py']

max_epochs, num_images, dim = 12, 10000, 128

model = dict(
    type='MoCo',
    momentum=0.98,
    backbone=dict(
        type='ResNet',
        depth=8,
        in_channels=1,
        width=16,
        stem=dict(kernel_size=3, stride=2, padding=1, maxpool=False),
        num_splits=4,
    ),
    neck=dict(type='MLPNeck', in_dim=64, hidden_dim=256, out_dim=dim, norm=True),
    head=dict(type='InfoNCEHead', dim=dim, queue_size=2048, temperature=0.2),
)

augmentation = [
    dict(type='BatchAffine', scale=(0.6, 1.0), ratio=(1 / 1.2, 1.2), flip_prob=0.5, degrees=0),
    # With crops and jitter alone the features end below raw pixels.
    dict(type='BatchGamma', gamma=0.7),
    dict(type='BatchColorJitter', brightness=0.4, contrast=0.4),
    dict(type='BatchNoise', max_std=0.3 * 255),
]
train_dataloader = dict(
    dataset=dict(
        num_images=num_images,
        pipeline=dict(type='BatchMultiView', num_views=2, transforms=augmentation),
    )
)
bank = dict(bank_dataloader=dict(dataset=dict(num_images=num_images)))
val_cfg = bank
test_cfg = bank

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.06, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='CosineLR', by_epoch=False)]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=4)
