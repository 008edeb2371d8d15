"""MoCo + Un-Mix on CIFAR-10, asymmetric loss. kNN top-1: 91.34 published; ours not measured."""

_base_ = './moco-asym_resnet18_1xb512-coslr-1000e_cifar10.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
