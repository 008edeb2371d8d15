"""A small ViT in the place of the ResNet of a quickstart config on the digits: an additional base, or of a command.

unmix train quickstart/unmix-dino_digits --cfg-options _base_=unmix::_base_/vit_digits.py

Not for CMC, which has two networks, and PIC, whose recent rows need SGD.
Images of 16 px, patches of 4 px, four blocks of width 64: 0.2 million weights.
"""

# Merged into the config when all is read, as in accelerator.py.
overlay = dict(
    model=dict(
        backbone=dict(
            _delete_=True,
            type='TorchVisionBackbone',
            model_name='VisionTransformer',
            in_channels=1,
            img_size=16,
            dynamic_img_size=True,  # for multi-crop
            pool='mean',
            model_args=dict(patch_size=4, num_layers=4, num_heads=4, hidden_dim=64, mlp_dim=128),
        )
    ),
    optim_wrapper=dict(
        _delete_=True,
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        paramwise_cfg=dict(no_decay=True),
        clip_grad=dict(max_norm=3.0),
    ),
    param_scheduler=[dict(type='RampCosineLR', warmup=10, convert_to_iter_based=True)],
)
