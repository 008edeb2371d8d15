"""MoCo + Un-Mix on 10,000 images of Fashion-MNIST, with region mixtures only, a few minutes on two CPU cores.

python tools/train.py configs/quickstart/unmix-moco_fashion-mnist.py
"""

_base_ = './moco_fashion-mnist.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.0)))
