"""Mask R-CNN R50-C4 on COCO, 180k iterations (2x) of 16 images: MoCo's transfer in mmdet; see docs/transfer.md.

PYTHONPATH=tools/benchmarks/mmdet mim train mmdet \
    tools/benchmarks/mmdet/mask-rcnn_r50-c4_8xb2-180k_coco.py --gpus 8 --launcher pytorch \
    --cfg-options load_from=detector.pth
"""

_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py'
custom_imports = dict(imports=['res_layer_with_norm'], allow_failed_imports=False)
load_from = None  # the checkpoint exported by --to mmdet-c4

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(frozen_stages=-1, norm_cfg=norm_cfg, norm_eval=False, style='pytorch', init_cfg=None),
    roi_head=dict(
        shared_head=dict(type='ResLayerWithNorm', norm_cfg=norm_cfg, norm_eval=False, style='pytorch', init_cfg=None),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomChoiceResize', scales=[(1333, side) for side in range(640, 801, 32)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True), dataset=dict(pipeline=train_pipeline)
)

max_iters = 180000
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=30000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=max_iters, milestones=[120000, 160000], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=30000))
log_processor = dict(by_epoch=False)
