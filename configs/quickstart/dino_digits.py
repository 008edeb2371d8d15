"""DINO on scikit-learn's handwritten digits, two views, about a minute on a CPU.

python tools/train.py configs/quickstart/dino_digits.py
"""

_base_ = ['../_base_/datasets/digits.py', '../_base_/augmentations/digits.py', '../_base_/default_runtime.py']

max_epochs, dim = 120, 256
num_threads = 1  # small tensors: a second thread gains little, and results depend on the number

model = dict(
    type='DINO',
    momentum=0.95,  # rises to 1 along half a cosine
    backbone=dict(
        type='ResNet', depth=8, in_channels=1, width=16, stem=dict(kernel_size=3, stride=2, padding=1, maxpool=False)
    ),
    neck=dict(type='DINONeck', in_dim=64, hidden_dim=256, bottleneck_dim=64, out_dim=dim, norm=True),
    head=dict(type='DINOHead', dim=dim, temperature=0.1, teacher_temperature=0.04),
)
train_dataloader = dict(dataset=dict(pipeline=dict(type='BatchMultiView', num_views=2, transforms=_base_.augmentation)))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.001, weight_decay=1e-2))
param_scheduler = [dict(type='CosineLR', by_epoch=False)]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=10)
