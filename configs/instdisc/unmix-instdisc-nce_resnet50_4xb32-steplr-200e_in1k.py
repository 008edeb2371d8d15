"""InstDisc of the CMC repository, NCE, ImageNet + Un-Mix. No figure is published; ours: not measured."""

_base_ = './instdisc-nce_resnet50_4xb32-steplr-200e_in1k.py'
model = dict(unmix=dict(type='UnMix'))
