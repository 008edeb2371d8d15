"""SwAV + Un-Mix on CIFAR-100, 400 epochs. Linear top-1: 66.1 published; ours not measured."""

_base_ = './swav_resnet26_1xb128-coslr-400e_cifar100.py'
model = dict(flip_mode='code_only', unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
