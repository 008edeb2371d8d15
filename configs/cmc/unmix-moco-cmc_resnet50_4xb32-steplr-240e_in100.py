"""MoCo of the CMC repository, ImageNet-100 + Un-Mix. No figure is published; ours: not measured."""

_base_ = './moco-cmc_resnet50_4xb32-steplr-240e_in100.py'
model = dict(unmix=dict(type='UnMix'))
