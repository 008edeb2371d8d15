"""MoCo + Un-Mix on 10,000 images of Fashion-MNIST, with region mixtures only."""

_base_ = './moco_fashion-mnist.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.0)))
