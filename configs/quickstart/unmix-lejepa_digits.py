"""LeJEPA + Un-Mix on the digits, with region mixtures only."""

_base_ = './lejepa_digits.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.0)))
