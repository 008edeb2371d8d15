"""VICReg + Un-Mix on a folder of your own images: unmix train --data DIR --method vicreg."""

_base_ = './vicreg_folder.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
