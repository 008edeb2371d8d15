"""InstDisc of the CMC repository, softmax, ImageNet-100 + Un-Mix. No figure is published; ours: not measured."""

_base_ = './instdisc-softmax16384_resnet50_4xb32-steplr-240e_in100.py'
model = dict(unmix=dict(type='UnMix'))
