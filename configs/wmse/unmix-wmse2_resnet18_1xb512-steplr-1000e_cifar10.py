"""W-MSE with 2 views + Un-Mix on CIFAR-10. No published number; ours not measured."""

_base_ = './wmse2_resnet18_1xb512-steplr-1000e_cifar10.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
