"""MoCo v2's form of alignment and uniformity + Un-Mix on ImageNet. No published number; ours not measured."""

_base_ = './moco-align-uniform_resnet50_8xb32-coslr-200e_in1k.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
