"""PIC + Un-Mix on a folder of your own images: unmix train --data DIR --method pic."""

_base_ = './pic_folder.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
