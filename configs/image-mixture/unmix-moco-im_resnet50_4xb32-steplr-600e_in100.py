"""Un-Mix on IM in the data set, both forms at once: our proposal. No number, published or ours."""

_base_ = './moco-im_resnet50_4xb32-steplr-600e_in100.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
