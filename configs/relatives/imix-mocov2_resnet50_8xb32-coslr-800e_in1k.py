"""i-Mix on MoCo v2, ResNet-50, ImageNet, 800 epochs: the mixture takes the place of the query.

bash tools/dist_train.sh configs/relatives/imix-mocov2_resnet50_8xb32-coslr-800e_in1k.py 8

Source: https://arxiv.org/abs/2010.08887, https://github.com/kibok90/imix (alpha 0.2 for ImageNet; each image has a
share and a random partner; all keys of the batch are candidates). The recipe around it is MoCo v2's: the release trains
with batches of 512 and a warm-up of 10 epochs. Published figures are not entered; ours not measured.
"""

_base_ = '../moco/mocov2_resnet50_8xb32-coslr-800e_in1k.py'
model = dict(
    head=dict(type='BatchInfoNCEHead'),
    unmix=dict(
        type='UnMix', mixing=dict(type='Mixup', alpha=0.2, fold=True), partner='random', shares='sample', replace=True
    ),
)
