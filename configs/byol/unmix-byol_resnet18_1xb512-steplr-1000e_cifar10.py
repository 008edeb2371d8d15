"""BYOL + Un-Mix on CIFAR-10. Linear top-1: 94.2 read off the published curves; ours not measured."""

_base_ = './byol_resnet18_1xb512-steplr-1000e_cifar10.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
