"""LeJEPA, ViT-S/14, ImageNet, 2x224 + 6x98 crops, 100 epochs.

bash tools/dist_train.sh configs/lejepa/lejepa_vit-small_8xb64-mcrop-coslr-100e_in1k.py 8

Source: https://arxiv.org/abs/2511.08544, https://github.com/rbalestr-lab/lejepa, its numbers for ViTs; size of the
network, batch, warm-up and projector are ours. Linear top-1: none published of this network; ours not measured.
"""

_base_ = './lejepa_resnet50_8xb64-mcrop-coslr-100e_in1k.py'

width = 384

model = dict(
    backbone=dict(
        _delete_=True,
        type='TorchVisionBackbone',
        model_name='VisionTransformer',
        img_size=224,
        dynamic_img_size=True,
        model_args=dict(patch_size=14, num_layers=12, num_heads=6, hidden_dim=width, mlp_dim=4 * width),
    ),
    neck=dict(in_dim=width),
)
optim_wrapper = dict(optimizer=dict(weight_decay=5e-2))
