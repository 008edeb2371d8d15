"""MoCo v1 + Un-Mix on ImageNet, 200 epochs; region only, the script's default. No number, published or ours."""

_base_ = './mocov1_resnet50_8xb32-steplr-200e_in1k.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.0)))
