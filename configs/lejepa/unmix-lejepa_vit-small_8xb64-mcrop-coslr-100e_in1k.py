"""LeJEPA + Un-Mix on ImageNet, ViT. No published number; ours not measured."""

_base_ = './lejepa_vit-small_8xb64-mcrop-coslr-100e_in1k.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
