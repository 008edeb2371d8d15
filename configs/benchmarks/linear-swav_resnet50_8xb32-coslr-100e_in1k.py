"""Linear evaluation on ImageNet by SwAV's protocol, of SwAV and DeepCluster-v2.

bash tools/dist_train.sh configs/benchmarks/linear-swav_resnet50_8xb32-coslr-100e_in1k.py 8 \
    --cfg-options model.pretrained=work_dirs/swav_resnet50_64xb64-mcrop-coslr-800e_in1k/epoch_800.pth

Source: https://arxiv.org/abs/2006.09882, https://github.com/facebookresearch/swav (eval_linear.py): rate 0.3, a cosine
by epochs, weight decay 1e-6; the std of red is 0.228. The best epoch is reported there.
Top-1: 75.3 published (800 epochs); ours not measured.
"""

_base_ = './linear_resnet50_8xb32-steplr-100e_in1k.py'

data_preprocessor = dict(std=[0.228 * 255, 0.224 * 255, 0.225 * 255])
optim_wrapper = dict(optimizer=dict(lr=0.3, weight_decay=1e-6))
param_scheduler = [dict(type='CosineLR')]
