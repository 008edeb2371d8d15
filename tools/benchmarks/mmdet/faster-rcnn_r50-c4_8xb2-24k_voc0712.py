"""Faster R-CNN R50-C4 on VOC 07+12, 24k iterations of 16 images: MoCo's transfer in mmdet; see docs/transfer.md.

PYTHONPATH=tools/benchmarks/mmdet mim train mmdet \
    tools/benchmarks/mmdet/faster-rcnn_r50-c4_8xb2-24k_voc0712.py --gpus 8 --launcher pytorch \
    --cfg-options load_from=detector.pth
"""

_base_ = 'mmdet::pascal_voc/faster-rcnn_r50-caffe-c4_ms-18k_voc0712.py'
custom_imports = dict(imports=['res_layer_with_norm'], allow_failed_imports=False)
load_from = None  # the checkpoint exported by --to mmdet-c4

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(frozen_stages=-1, norm_cfg=norm_cfg, norm_eval=False, style='pytorch', init_cfg=None),
    roi_head=dict(
        shared_head=dict(type='ResLayerWithNorm', norm_cfg=norm_cfg, norm_eval=False, style='pytorch', init_cfg=None),
        bbox_head=dict(num_classes=20),
    ),
)

max_iters = 24000
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=max_iters, milestones=[18000, 22000], gamma=0.1),
]
