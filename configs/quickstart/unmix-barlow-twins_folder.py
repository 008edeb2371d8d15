"""Barlow Twins + Un-Mix on a folder of your own images: unmix train --data DIR --method barlow-twins."""

_base_ = './barlow-twins_folder.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
