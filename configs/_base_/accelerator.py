"""What suits an accelerator and rounds otherwise than the recipes: an additional base of a config, or of a command.

_base_ = ['unmix::moco/mocov2_resnet50_8xb32-coslr-200e_in1k.py', 'unmix::_base_/accelerator.py']
unmix train moco/mocov2_resnet50_8xb32-coslr-200e_in1k --cfg-options _base_=unmix::_base_/accelerator.py

Each key is explained in docs/speed.md. Further ones: compile=True, optim_wrapper.type=AutocastOptimWrapper (bfloat16).
Recipes with model.backbone.num_splits are faster with model.backbone.channels_last=False.
"""

# Merged into the config when all is read: no two bases may have a key in common, and each recipe has these.
accelerator = dict(
    env_cfg=dict(cudnn_benchmark=True, matmul_precision='high'),
    model=dict(backbone=dict(channels_last=True)),
)
