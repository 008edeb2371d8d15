"""InstDisc in the form of the PIC repository (MLP, softmax), ResNet-50, ImageNet, 400 epochs.

bash tools/dist_train.sh configs/instdisc/instdisc-mlp_resnet50_4xb64-coslr-400e_in1k.py 4

Source: https://github.com/bl0/PIC, on https://arxiv.org/abs/1805.01978.
Linear top-1: 62.7 published there (BatchNorm of the frozen network in training mode); ours not measured.
That code keeps a bank on each GPU: --cfg-options model.head.sync=False model.head.bank_init=columns for the same.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/augmentations/instdisc_mlp.py', '../_base_/default_runtime.py']

dim, batch_size, max_epochs = 128, 64, 400  # of one of 4 GPUs
num_images = 1281167
steps = num_images // (4 * batch_size)  # iterations of an epoch
warmup = max_epochs // 40 * steps

model = dict(
    type='InstDisc',
    backbone=dict(type='ResNet', depth=50, zero_init_residual=True),
    neck=dict(type='MLPNeck', in_dim=2048, hidden_dim=2048, out_dim=dim),
    head=dict(
        type='NCEHead',
        num_instances=num_images,
        dim=dim,
        num_negatives=65536,
        temperature=0.07,
        momentum=0.5,
        form='softmax',
    ),
)

augmentation = [dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.0)), *_base_.augmentation]
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(pipeline=dict(type='MultiView', num_views=1, transforms=augmentation)),
)

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4))
# From a hundredth of the rate to all of it, then a cosine, in iterations.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=warmup + 1, by_epoch=False),
    dict(
        type='CosineLR',
        T_max=max_epochs * steps - warmup,
        eta_min=1e-6,
        begin=warmup,
        end=max_epochs * steps,
        by_epoch=False,
    ),
]
train_cfg = dict(type='TrainLoop', max_epochs=max_epochs, val_interval=10)
auto_scale_lr = dict(enable=False, base_batch_size=4 * batch_size)
