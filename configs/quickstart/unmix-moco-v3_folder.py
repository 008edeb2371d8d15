"""MoCo v3 + Un-Mix on a folder of your own images: unmix train --data DIR --method moco-v3."""

_base_ = './moco-v3_folder.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
