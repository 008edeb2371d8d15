"""Linear evaluation of a pre-trained ResNet-18 on CIFAR-10: frozen features, 100 epochs.

python tools/train.py configs/benchmarks/linear_resnet18_1xb256-steplr-100e_cifar10.py \
    --cfg-options model.pretrained=work_dirs/unmix-moco-sym_resnet18_1xb512-coslr-1000e_cifar10/epoch_1000.pth

Source: the recommendation of MoCo's CIFAR demo, https://github.com/facebookresearch/moco (lr 30, no weight decay, 100
epochs); augmentation and milestones are those on ImageNet.
Top-1: 90.7 published for the demo's symmetric MoCo of 800 epochs; ours not measured.
"""

_base_ = ['../_base_/datasets/cifar10.py', '../_base_/default_runtime.py']

model = dict(
    type='Classifier',
    backbone=dict(type='ResNet', depth=18, stem='cifar'),
    head=dict(type='ClassificationHead', num_classes=10),
    freeze=True,
    pretrained=None,
    control=True,
)

batch_size = 256
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        pipeline=dict(
            type='SingleView',
            transforms=[dict(type='RandomResizedCrop', size=32), dict(type='RandomHorizontalFlip')],
        )
    ),
    drop_last=False,
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=30.0, momentum=0.9, weight_decay=0.0))
param_scheduler = [dict(type='MultiStepLR', milestones=[60, 80], gamma=0.1)]
train_cfg = dict(type='TrainLoop', max_epochs=100, val_interval=1)
auto_scale_lr = dict(enable=False, base_batch_size=batch_size)

default_hooks = dict(checkpoint=dict(save_best='accuracy/top1', rule='greater'))
val_cfg = dict(_delete_=True, type='ValLoop')
val_evaluator = dict(_delete_=True, type='Accuracy')
test_cfg = dict(_delete_=True, type='TestLoop')
test_evaluator = dict(_delete_=True, type='Accuracy')
