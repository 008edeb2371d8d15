"""DeepCluster-v2, ResNet-50, ImageNet, 2x224 crops, 400 epochs.

GPUS=64 bash tools/slurm_train.sh PARTITION JOB \
    configs/deepclusterv2/deepclusterv2_resnet50_64xb64-coslr-400e_in1k.py

Source: https://arxiv.org/abs/2006.09882, https://github.com/facebookresearch/swav.
Linear top-1: 70.2 published; ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/simclr.py', '../_base_/default_runtime.py']

dim, batch_size = 128, 64  # of one of 64 GPUs

model = dict(
    type='DeepClusterV2',
    backbone=dict(type='ResNet', depth=50),
    neck=dict(type='MLPNeck', in_dim=2048, hidden_dim=2048, out_dim=dim, norm=True, hidden_bias=True),
    head=dict(
        type='DeepClusterV2Head', num_instances=1281167, dim=dim, num_prototypes=3000, num_heads=3, temperature=0.1
    ),
)
sync_bn = 'torch'
# As released: the first value is usually 0.229.
data_preprocessor = dict(std=[0.228 * 255, 0.224 * 255, 0.225 * 255])

augmentation = [dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=8,
    dataset=dict(pipeline=dict(type='MultiView', num_views=2, transforms=augmentation)),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='LARC', lr=4.8, momentum=0.9, weight_decay=1e-6))
param_scheduler = [dict(type='RampCosineLR', warmup=10, warmup_lr=0.3, eta_min=0.0048, convert_to_iter_based=True)]
default_hooks = dict(cluster=dict(type='ClusterHook'))
train_cfg = dict(type='TrainLoop', max_epochs=400, val_interval=20)
auto_scale_lr = dict(enable=False, base_batch_size=64 * batch_size)
