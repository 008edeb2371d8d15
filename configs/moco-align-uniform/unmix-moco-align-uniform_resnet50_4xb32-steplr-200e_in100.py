"""MoCo with alignment and uniformity + Un-Mix on ImageNet-100. No published number; ours not measured."""

_base_ = './moco-align-uniform_resnet50_4xb32-steplr-200e_in100.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.0)))
