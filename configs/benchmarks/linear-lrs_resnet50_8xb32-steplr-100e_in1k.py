"""Linear evaluation on ImageNet by MoCo's protocol, at several learning rates in one pass: a layer each.

bash tools/dist_train.sh configs/benchmarks/linear-lrs_resnet50_8xb32-steplr-100e_in1k.py 8 \
    --cfg-options model.pretrained=work_dirs/simclr_resnet50_4xb64-coslr-200e_in1k/epoch_200.pth

The best rate depends on the scale of the features: 30 for MoCo, 0.1 for SimCLR, 0.3 for SwAV. Top-1: not measured.
"""

_base_ = './linear_resnet50_8xb32-steplr-100e_in1k.py'

lrs = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03)

model = dict(head=dict(lrs=lrs))
optim_wrapper = dict(
    optimizer=dict(lr=1.0),
    paramwise_cfg=dict(custom_keys={f'head.fc.{i}.': dict(lr_mult=lr) for i, lr in enumerate(lrs)}),
)
