"""InstDisc in the form of the CMC repository (softmax, K = 4096), ResNet-50, ImageNet, 200 epochs.

bash tools/dist_train.sh configs/instdisc/instdisc-softmax4096_resnet50_4xb32-steplr-200e_in1k.py 4

Source: https://github.com/HobbitLong/CMC, on https://arxiv.org/abs/1805.01978.
Linear top-1: 57.1 published there; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/moco_v1.py', '../_base_/default_runtime.py']

dim, batch_size = 128, 32  # of one of 4 GPUs

model = dict(
    type='InstDisc',
    backbone=dict(type='ResNet', depth=50),
    neck=dict(type='LinearNeck', in_dim=2048, out_dim=dim),
    head=dict(
        type='NCEHead',
        num_instances=1281167,
        dim=dim,
        num_negatives=4096,
        temperature=0.07,
        momentum=0.5,
        form='softmax',
        bank_init='uniform',
    ),
)

augmentation = [dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.0)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    drop_last=False,
    dataset=dict(pipeline=dict(type='MultiView', num_views=1, transforms=augmentation)),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type='MultiStepLR', milestones=[120, 160], gamma=0.1)]
train_cfg = dict(type='TrainLoop', max_epochs=200, val_interval=10)
auto_scale_lr = dict(enable=False, base_batch_size=4 * batch_size)
