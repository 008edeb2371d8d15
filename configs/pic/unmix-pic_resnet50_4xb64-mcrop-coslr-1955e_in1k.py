"""PIC, 200 epochs + Un-Mix. No figure is published; ours: not measured."""

_base_ = './pic_resnet50_4xb64-mcrop-coslr-1955e_in1k.py'
model = dict(unmix=dict(type='UnMix'))
