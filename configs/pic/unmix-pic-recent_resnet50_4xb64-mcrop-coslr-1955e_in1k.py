"""PIC, recent negatives, 200 epochs + Un-Mix. No figure is published; ours: not measured."""

_base_ = './pic-recent_resnet50_4xb64-mcrop-coslr-1955e_in1k.py'
model = dict(unmix=dict(type='UnMix'))
