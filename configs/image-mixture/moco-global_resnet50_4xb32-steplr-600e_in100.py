"""The baseline with global mixtures only. No number, published or ours.

bash tools/dist_train.sh configs/image-mixture/moco-global_resnet50_4xb32-steplr-600e_in100.py 4
"""

_base_ = './moco_resnet50_4xb32-steplr-600e_in100.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MixtureDataset',
        mixing=dict(type='Mixup', alpha=1.0),
        num_mix=2,
        prob=0.1,
        dataset=_base_.train_dataloader.dataset,
    )
)
