"""CMC on Lab, ImageNet + Un-Mix. No figure is published; ours: not measured."""

_base_ = './cmc-lab_resnet50-half_4xb32-steplr-200e_in1k.py'
model = dict(unmix=dict(type='UnMix'))
