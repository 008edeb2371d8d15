"""Mixed Barlow Twins' recipe with Un-Mix's own form instead, to compare. Nothing is published; ours not measured."""

_base_ = './mixed-barlow-twins_resnet18_1xb256-coslr-2000e_cifar10.py'
model = dict(type='SimCLR', unmix=dict(_delete_=True, type='UnMix'))
