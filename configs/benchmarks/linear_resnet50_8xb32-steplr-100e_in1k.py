"""Linear evaluation of a pre-trained ResNet-50 on ImageNet, MoCo's protocol: frozen features, 100 epochs.

bash tools/dist_train.sh configs/benchmarks/linear_resnet50_8xb32-steplr-100e_in1k.py 8 \
    --cfg-options model.pretrained=work_dirs/unmix-mocov2_resnet50_8xb32-coslr-200e_in1k/epoch_200.pth

Source: https://arxiv.org/abs/1911.05722 (Sec. 4.1), https://github.com/facebookresearch/moco (main_lincls.py).
Top-1 of published weights: MoCo v1 60.6, MoCo v2 67.5 (200 epochs) and 71.1 (800); ours not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/default_runtime.py']

batch_size = 32  # of one of 8 GPUs

model = dict(
    type='Classifier',
    backbone=dict(type='ResNet', depth=50),
    head=dict(type='ClassificationHead', num_classes=1000),
    freeze=True,
    pretrained=None,
    control=True,
)

train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        pipeline=dict(
            type='SingleView',
            transforms=[dict(type='RandomResizedCrop', size=224), dict(type='RandomHorizontalFlip')],
        )
    ),
    drop_last=False,
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=30.0, momentum=0.9, weight_decay=0.0))
param_scheduler = [dict(type='MultiStepLR', milestones=[60, 80], gamma=0.1)]
train_cfg = dict(type='TrainLoop', max_epochs=100, val_interval=1)
auto_scale_lr = dict(enable=False, base_batch_size=8 * batch_size)

default_hooks = dict(checkpoint=dict(save_best='accuracy/top1', rule='greater'))
val_cfg = dict(_delete_=True, type='ValLoop')
val_evaluator = dict(_delete_=True, type='Accuracy')
test_cfg = dict(_delete_=True, type='TestLoop')
test_evaluator = dict(_delete_=True, type='Accuracy')
