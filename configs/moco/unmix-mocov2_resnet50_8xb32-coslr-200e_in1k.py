"""MoCo v2 + Un-Mix on ImageNet, 200 epochs; prob as in the run command. Linear 68.6 published; ours: not measured."""

_base_ = './mocov2_resnet50_8xb32-coslr-200e_in1k.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
