"""Linear evaluation on ImageNet by PIC's protocol, of PIC and of the InstDisc, MoCo and SimCLR beside it.

bash tools/dist_train.sh configs/benchmarks/linear-pic_resnet50_4xb64-coslr-100e_in1k.py 4 \
    --cfg-options model.pretrained=work_dirs/pic_resnet50_4xb64-mcrop-coslr-1955e_in1k/epoch_1955.pth

Source: https://arxiv.org/abs/2006.14618, https://github.com/bl0/PIC. BatchNorm of the frozen network is in training
mode, which its figures need and others' do not have: not to be compared with MoCo's protocol (model.bn_mode=eval). The
rate is 0.1 and the weight decay 1e-6 for SimCLR. The last epoch is reported, in half precision there.
Top-1: 68.6 published (200 epochs, 160 + 3x96 crops); ours not measured.
"""

_base_ = './linear_resnet50_8xb32-steplr-100e_in1k.py'

batch_size, max_epochs = 64, 100  # of one of 4 GPUs
steps = 1281167 // (4 * batch_size)
warmup = 5 * steps

model = dict(bn_mode='train', head=dict(std=None))
train_dataloader = dict(batch_size=batch_size, drop_last=True)
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
auto_scale_lr = dict(base_batch_size=4 * batch_size)
