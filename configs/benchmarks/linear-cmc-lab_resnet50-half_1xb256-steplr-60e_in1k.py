"""Linear evaluation of CMC on ImageNet, on the features or on any layer of both branches.

python tools/train.py configs/benchmarks/linear-cmc-lab_resnet50-half_1xb256-steplr-60e_in1k.py \
    --cfg-options model.pretrained=work_dirs/cmc-lab_resnet50-half_4xb32-steplr-200e_in1k/epoch_200.pth

Layer L as there, with its map pooled: model.layer=1 model.pool=8, or 2 and 6, 3 and 4, 4 and 3, 5 and 7 (the whole map
of 7x7); 6 are the features, the default. Source: https://arxiv.org/abs/1906.05849, https://github.com/HobbitLong/CMC
(LinearProbing.py). The best epoch is reported there. Top-1: none published for this network; ours not measured.
"""

_base_ = './linear_resnet50_8xb32-steplr-100e_in1k.py'

batch_size = 256

model = dict(
    backbone=dict(_delete_=True, type='TwoBranch', branch=dict(type='ResNet', depth=50, width=32, stem_width=64))
)
data_preprocessor = dict(_delete_=True, type='ColorPreprocessor', color_space='lab')
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        pipeline=dict(
            transforms=[dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.0)), dict(type='RandomHorizontalFlip')]
        )
    ),
)
param_scheduler = [dict(type='MultiStepLR', milestones=[30, 40, 50], gamma=0.2)]
train_cfg = dict(max_epochs=60)
auto_scale_lr = dict(base_batch_size=batch_size)
