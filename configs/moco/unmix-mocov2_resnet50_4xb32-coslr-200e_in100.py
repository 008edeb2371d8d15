"""MoCo v2 + Un-Mix on ImageNet-100, 200 epochs; prob as in the run command. No number, published or ours."""

_base_ = './mocov2_resnet50_4xb32-coslr-200e_in100.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
