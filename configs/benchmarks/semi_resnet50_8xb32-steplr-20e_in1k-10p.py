"""Semi-supervised evaluation on ImageNet: the whole ResNet-50 is fine-tuned on 10 % of the labels, 20 epochs.

bash tools/dist_train.sh configs/benchmarks/semi_resnet50_8xb32-steplr-20e_in1k-10p.py 8 \
    --cfg-options model.pretrained=CHECKPOINT

The list of images is SimCLR's (https://github.com/google-research/simclr, imagenet_subsets/10percent.txt); instead
of it a seed may draw: train_dataloader.dataset.files=None train_dataloader.dataset.share=0.1.
Source: https://arxiv.org/abs/2006.09882, https://github.com/facebookresearch/swav (eval_semisup.py): two learning
rates, BatchNorm in training mode over all GPUs. The best epoch is reported there.
Top-1 of SwAV: in Table 2 of its paper; ours not measured.
"""

_base_ = './linear_resnet50_8xb32-steplr-100e_in1k.py'

lr, backbone_lr = 0.2, 0.01

model = dict(freeze=False, control=False, head=dict(std=None))
sync_bn = 'torch'
data_preprocessor = dict(std=[0.228 * 255, 0.224 * 255, 0.225 * 255])  # red's as released
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='Subset',
        files='data/imagenet/10percent.txt',
        dataset=_base_.train_dataloader.dataset,
    )
)
optim_wrapper = dict(
    optimizer=dict(lr=lr),
    paramwise_cfg=dict(custom_keys={'backbone.': dict(lr_mult=backbone_lr / lr)}),
)
param_scheduler = [dict(type='MultiStepLR', milestones=[12, 16], gamma=0.2)]
train_cfg = dict(max_epochs=20)
