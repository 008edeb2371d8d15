"""VICReg + Un-Mix on ImageNet. No published number; ours not measured."""

_base_ = './vicreg_resnet50_32xb64-coslr-1000e_in1k.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
