"""SwAV + Un-Mix on CIFAR-10, 400 epochs. Linear top-1: 90.4 published; ours not measured."""

_base_ = './swav_resnet26_1xb128-coslr-400e_cifar10.py'
model = dict(flip_mode='code_only', unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5)))
