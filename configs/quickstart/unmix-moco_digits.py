"""MoCo + Un-Mix on the digits, with region mixtures only, which are the best on these data."""

_base_ = './moco_digits.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.0)))
