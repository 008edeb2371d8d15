"""Linear evaluation on CIFAR-10 by SwAV's protocol, as Un-Mix was published with.

python tools/train.py configs/benchmarks/linear-swav_resnet26_1xb32-coslr-100e_cifar10.py \
    --cfg-options model.pretrained=work_dirs/unmix-swav_resnet26_1xb128-coslr-400e_cifar10/epoch_400.pth

Source: https://github.com/szq0214/Un-Mix (UnMix_SwAV): rate 0.3 at batches of 32, and another std than in pre-training.
The best epoch is reported there. Top-1 of SwAV: 88.8 published; ours not measured.
"""

_base_ = './linear_resnet18_1xb256-steplr-100e_cifar10.py'

batch_size = 32

model = dict(backbone=dict(depth=26, stem=dict(_delete_=True, kernel_size=3, stride=1, padding=2)))
data_preprocessor = dict(std=[0.2470 * 255, 0.2435 * 255, 0.2616 * 255])
train_dataloader = dict(batch_size=batch_size)
optim_wrapper = dict(optimizer=dict(lr=0.3, weight_decay=1e-6))
param_scheduler = [dict(type='CosineLR')]
auto_scale_lr = dict(base_batch_size=batch_size)
