"""InstDisc of the PIC repository, 400 epochs + Un-Mix. No figure is published; ours: not measured."""

_base_ = './instdisc-mlp_resnet50_4xb64-coslr-400e_in1k.py'
model = dict(unmix=dict(type='UnMix'))
