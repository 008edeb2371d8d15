"""MoCoMix of OpenMixup on MoCo v2, ResNet-50, ImageNet, 200 epochs: mixtures with a permutation of the batch.

bash tools/dist_train.sh configs/relatives/mocomix_resnet50_8xb32-coslr-200e_in1k.py 8

Source: https://github.com/Westlake-AI/openmixup (MoCoMix with cross_view_ssl=True, alpha 2). There the permutation is
of the images of all GPUs and leaves none in its place; here each GPU permutes its own. Nothing is published; ours not
measured.
"""

_base_ = '../moco/mocov2_resnet50_8xb32-coslr-200e_in1k.py'
model = dict(unmix=dict(type='UnMix', mixing=dict(type='Mixup', alpha=2.0), partner='random'))
