"""CMC on YCbCr, ImageNet-100 + Un-Mix. No figure is published; ours: not measured."""

_base_ = './cmc-ycbcr_resnet50-half_4xb32-steplr-240e_in100.py'
model = dict(unmix=dict(type='UnMix'))
