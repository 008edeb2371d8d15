"""MoCo + Un-Mix on 10,000 images of Fashion-MNIST, with region mixtures only, a few minutes on two CPU cores.

python tools/train.py configs/quickstart/unmix-moco_fashion-mnist.py
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
    unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.0)),
)
train_dataloader = dict(dataset=dict(num_images=num_images))
bank = dict(bank_dataloader=dict(dataset=dict(num_images=num_images)))
val_cfg = bank
test_cfg = bank

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.06, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='CosineLR', by_epoch=False)]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=4)
