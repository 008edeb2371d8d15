"""MoCo with alignment and uniformity + Un-Mix on a folder of your own images."""

_base_ = './moco-align-uniform_folder.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
