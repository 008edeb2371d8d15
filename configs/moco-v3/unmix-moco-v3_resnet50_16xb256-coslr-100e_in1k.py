"""MoCo v3 + Un-Mix on ImageNet. No published number; ours not measured."""

_base_ = './moco-v3_resnet50_16xb256-coslr-100e_in1k.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
