"""W-MSE with 2 views + Un-Mix on ImageNet-100. No published number; ours not measured."""

_base_ = './wmse2_resnet18_1xb512-steplr-240e_in100.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
