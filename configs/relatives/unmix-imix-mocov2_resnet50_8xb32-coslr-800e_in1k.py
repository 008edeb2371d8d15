"""The recipe of i-Mix with Un-Mix's own form instead, to compare them. Nothing is published; ours not measured."""

_base_ = './imix-mocov2_resnet50_8xb32-coslr-800e_in1k.py'
model = dict(unmix=dict(_delete_=True, type='UnMix'))
