"""CMC on scikit-learn's handwritten digits (1,257 images of 16 px to train on), one to two minutes on a CPU core.

python tools/train.py configs/quickstart/cmc_digits.py

CMC needs colour: black and white of the grey digits become two colours, each time a little different ones in training.
"""

_base_ = ['../_base_/datasets/digits.py', '../_base_/default_runtime.py']

max_epochs, dim = 150, 64
num_threads = 1  # small tensors: a second thread gains little, and results depend on the number
palette = [[40, 20, 120], [255, 230, 120]]

model = dict(
    type='CMC',
    backbone=dict(
        type='TwoBranch',
        branch=dict(type='ResNet', depth=8, width=16, stem=dict(kernel_size=3, stride=2, padding=1, maxpool=False)),
    ),
    neck=dict(type='TwoBranchNeck', neck=dict(type='MLPNeck', in_dim=64, hidden_dim=256, out_dim=dim, norm=True)),
    head=dict(type='CMCHead', num_instances=1257, dim=dim, num_negatives=512, temperature=0.1, momentum=0.5),
)
data_preprocessor = dict(_delete_=True, type='ColorPreprocessor', color_space='lab', palette=palette)
train_dataloader = dict(
    dataset=dict(
        pipeline=dict(
            type='BatchMultiView',
            num_views=1,
            transforms=[
                dict(type='BatchAffine', scale=(0.6, 1.0), ratio=(3 / 4, 4 / 3), flip_prob=0.0, degrees=15),
                dict(type='BatchColorMap', palette=palette),
            ],
        ),
    ),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='CosineLR', by_epoch=False)]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=10)
