"""SimCLR + Un-Mix on Tiny-ImageNet. No published number; ours not measured."""

_base_ = './simclr_resnet18_1xb512-steplr-1000e_tiny-imagenet.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
