"""MoCo v3 + Un-Mix on ImageNet, ViT. No published number; ours not measured."""

_base_ = './moco-v3_vit-small_8xb128-coslr-300e_in1k.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
