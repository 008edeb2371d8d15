"""Un-Mix on the baseline: our proposal. No number, published or ours."""

_base_ = './moco_resnet50_4xb32-steplr-600e_in100.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
