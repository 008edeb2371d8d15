"""DeepCluster-v2 on scikit-learn's handwritten digits (1,257 images of 16 px to train on), about a minute on a CPU.

python tools/train.py configs/quickstart/deepclusterv2_digits.py
"""

_base_ = ['../_base_/datasets/digits.py', '../_base_/augmentations/digits.py', '../_base_/default_runtime.py']

max_epochs, dim = 100, 64
num_threads = 1  # small tensors: a second thread gains little, and results depend on the number

model = dict(
    type='DeepClusterV2',
    backbone=dict(
        type='ResNet', depth=8, in_channels=1, width=16, stem=dict(kernel_size=3, stride=2, padding=1, maxpool=False)
    ),
    neck=dict(type='MLPNeck', in_dim=64, hidden_dim=256, out_dim=dim, norm=True),
    head=dict(type='DeepClusterV2Head', num_instances=1257, dim=dim, num_prototypes=200, num_heads=3, temperature=0.1),
)
default_hooks = dict(cluster=dict(type='ClusterHook'))
train_dataloader = dict(dataset=dict(pipeline=dict(type='BatchMultiView', num_views=2, transforms=_base_.augmentation)))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='CosineLR', by_epoch=False)]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=10)
