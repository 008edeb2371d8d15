"""Linear evaluation on the embedded digits at several learning rates in one pass; a few seconds on two CPU cores.

python tools/train.py configs/benchmarks/linear_resnet8_1xb128-coslr-20e_digits.py \
    --cfg-options model.pretrained=work_dirs/unmix-moco_digits/epoch_150.pth
"""

_base_ = ['../_base_/datasets/digits.py', '../_base_/augmentations/digits.py', '../_base_/default_runtime.py']

batch_size, lrs = 128, (10.0, 3.0, 1.0, 0.3)
num_threads = 1

model = dict(
    type='Classifier',
    backbone=dict(
        type='ResNet',
        depth=8,
        in_channels=1,
        width=16,
        stem=dict(kernel_size=3, stride=2, padding=1, maxpool=False),
        num_splits=4,
    ),
    head=dict(type='ClassificationHead', num_classes=10, lrs=lrs),
    pretrained=None,
    control=True,
)
train_dataloader = dict(
    batch_size=batch_size,
    drop_last=False,
    dataset=dict(pipeline=dict(type='BatchMultiView', num_views=1, transforms=_base_.augmentation)),
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1.0, momentum=0.9),
    paramwise_cfg=dict(custom_keys={f'head.fc.{i}.': dict(lr_mult=lr) for i, lr in enumerate(lrs)}),
)
param_scheduler = [dict(type='CosineLR')]
train_cfg = dict(type='TrainLoop', max_epochs=20, val_interval=1)
auto_scale_lr = dict(enable=False, base_batch_size=batch_size)

default_hooks = dict(checkpoint=dict(save_best='accuracy/top1', rule='greater'))
val_cfg = dict(_delete_=True, type='ValLoop')
val_evaluator = dict(_delete_=True, type='Accuracy')
test_cfg = dict(_delete_=True, type='TestLoop')
test_evaluator = dict(_delete_=True, type='Accuracy')
