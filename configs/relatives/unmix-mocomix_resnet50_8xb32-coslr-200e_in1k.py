"""The recipe of MoCoMix with Un-Mix's own form instead, to compare them. Nothing is published; ours not measured."""

_base_ = './mocomix_resnet50_8xb32-coslr-200e_in1k.py'
model = dict(unmix=dict(_delete_=True, type='UnMix'))
