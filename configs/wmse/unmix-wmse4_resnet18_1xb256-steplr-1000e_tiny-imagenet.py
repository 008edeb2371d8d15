"""W-MSE with 4 views + Un-Mix on Tiny-ImageNet. No published number; ours not measured."""

_base_ = './wmse4_resnet18_1xb256-steplr-1000e_tiny-imagenet.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
