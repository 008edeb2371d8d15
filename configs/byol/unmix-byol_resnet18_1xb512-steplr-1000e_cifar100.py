"""BYOL + Un-Mix on CIFAR-100. Linear top-1: 71.3 read off the published curves; ours not measured."""

_base_ = './byol_resnet18_1xb512-steplr-1000e_cifar100.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
