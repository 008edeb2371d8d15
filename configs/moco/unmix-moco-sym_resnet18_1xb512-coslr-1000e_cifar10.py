"""MoCo + Un-Mix on CIFAR-10, symmetric loss. kNN top-1: 92.25 published; ours not measured."""

_base_ = './moco-sym_resnet18_1xb512-coslr-1000e_cifar10.py'
model = dict(unmix=dict(type='UnMix', replay_bn_stats=True, mixing=dict(type='RandomMixing', prob=0.5)))
