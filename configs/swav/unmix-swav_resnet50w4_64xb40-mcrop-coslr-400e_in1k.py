"""SwAV + Un-Mix, ResNet-50 of width 4, ImageNet, 2x224 + 4x96 crops, 400 epochs;
region only, the default of the release. No number, published or ours."""

_base_ = './swav_resnet50w4_64xb40-mcrop-coslr-400e_in1k.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.0)))
