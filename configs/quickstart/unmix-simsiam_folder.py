"""SimSiam + Un-Mix on a folder of your own images: unmix train --data DIR --method simsiam."""

_base_ = './simsiam_folder.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
