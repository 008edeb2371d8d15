"""CMC on Lab (NCE, K = 16384), two ResNet-50 of half width, ImageNet, 200 epochs.

bash tools/dist_train.sh configs/cmc/cmc-lab_resnet50-half_4xb32-steplr-200e_in1k.py 4

Source: https://arxiv.org/abs/1906.05849, https://github.com/HobbitLong/CMC.
Linear top-1: none published for this network (68.4 for the largest one); ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/default_runtime.py']

dim, batch_size = 128, 32  # of one of 4 GPUs

model = dict(
    type='CMC',
    backbone=dict(type='TwoBranch', branch=dict(type='ResNet', depth=50, width=32, stem_width=64)),
    neck=dict(type='TwoBranchNeck', neck=dict(type='LinearNeck', in_dim=1024, out_dim=dim)),
    head=dict(
        type='CMCHead',
        num_instances=1281167,
        dim=dim,
        num_negatives=16384,
        temperature=0.07,
        momentum=0.5,
        form='nce',
        bank_init='uniform',
    ),
)
data_preprocessor = dict(_delete_=True, type='ColorPreprocessor', color_space='lab')

augmentation = [
    dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0)),
    dict(type='RandomHorizontalFlip'),
]
train_dataloader = dict(
    batch_size=batch_size,
    drop_last=False,
    dataset=dict(pipeline=dict(type='MultiView', num_views=1, transforms=augmentation)),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type='MultiStepLR', milestones=[120, 160], gamma=0.1)]
train_cfg = dict(type='TrainLoop', max_epochs=200, val_interval=10)
auto_scale_lr = dict(enable=False, base_batch_size=4 * batch_size)
