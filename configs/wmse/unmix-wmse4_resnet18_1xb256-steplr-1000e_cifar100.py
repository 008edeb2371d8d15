"""W-MSE with 4 views + Un-Mix on CIFAR-100. No published number; ours not measured."""

_base_ = './wmse4_resnet18_1xb256-steplr-1000e_cifar100.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
