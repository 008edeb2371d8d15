"""NNCLR + Un-Mix on ImageNet. No published number; ours not measured."""

_base_ = './nnclr_resnet50_32xb128-coslr-1000e_in1k.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
