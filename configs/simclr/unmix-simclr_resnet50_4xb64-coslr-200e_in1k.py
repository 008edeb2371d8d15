"""SimCLR + Un-Mix on ImageNet, in the form of the PIC repository. No published number; ours not measured."""

_base_ = './simclr_resnet50_4xb64-coslr-200e_in1k.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
