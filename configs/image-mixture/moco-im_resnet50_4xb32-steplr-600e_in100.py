"""The baseline with IM, region mixtures of images that may be global mixtures.

bash tools/dist_train.sh configs/image-mixture/moco-im_resnet50_4xb32-steplr-600e_in100.py 4

Linear top-1: 78.8 published (read off a curve, +-0.2); ours not measured.
"""

_base_ = './moco_resnet50_4xb32-steplr-600e_in100.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MixtureDataset',
        mixing=dict(type='CutMix', alpha=1.0),
        num_mix=2,
        prob=0.1,
        dataset=dict(
            type='MixtureDataset',
            mixing=dict(type='Mixup', alpha=1.0),
            num_mix=2,
            prob=0.1,
            dataset=_base_.train_dataloader.dataset,
        ),
    )
)
