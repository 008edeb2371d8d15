"""W-MSE with 4 views + Un-Mix on STL-10. No published number; ours not measured."""

_base_ = './wmse4_resnet18_1xb256-steplr-2000e_stl10.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
