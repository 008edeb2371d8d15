"""SwAV + Un-Mix, ResNet-50, ImageNet, 2x224 + 6x96 crops, 100 epochs;
region only, the default of the release. No number, published or ours."""

_base_ = './swav_resnet50_64xb64-mcrop-coslr-100e_in1k.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.0)))
