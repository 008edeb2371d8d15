"""Semi-supervised evaluation on ImageNet: the whole ResNet-50 is fine-tuned on 1 % of the labels, 20 epochs.

bash tools/dist_train.sh configs/benchmarks/semi_resnet50_8xb32-steplr-20e_in1k-1p.py 8 \
    --cfg-options model.pretrained=CHECKPOINT

As with 10 %, with the list 1percent.txt and other learning rates. Top-1 of SwAV: in Table 2 of its paper; ours not
measured.
"""

_base_ = './semi_resnet50_8xb32-steplr-20e_in1k-10p.py'

lr, backbone_lr = 5.0, 0.02

train_dataloader = dict(dataset=dict(files='data/imagenet/1percent.txt'))
optim_wrapper = dict(
    optimizer=dict(lr=lr),
    paramwise_cfg=dict(custom_keys={'backbone.': dict(lr_mult=backbone_lr / lr)}),
)
