"""What every run shares: hooks, logging, seed. No recipe."""

default_scope = 'unmix'

default_hooks = dict(
    runtime_info=dict(type='LazyRuntimeInfoHook'),
    timer=dict(type='LazyTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=10, max_keep_ckpts=3, interval_minutes=30),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    progress=dict(type='ProgressHook', interval=1),
    health=dict(type='HealthHook', interval=50),
    finite_loss=dict(type='FiniteLossHook', policy='stop'),
)
custom_hooks = [
    dict(type='LoadGuardHook'),
    dict(type='InstanceHook'),
    dict(type='ReportHook'),
]

# 'nccl' is for CUDA; tools/train.py takes 'gloo' where there is none.
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl', timeout=1800),  # seconds that a collective may take, gloo's and NCCL's
)

log_level = 'INFO'
log_processor = dict(by_epoch=True, window_size=50)

# TensorBoard, W&B, MLflow: --log, see docs/loggers.md.
vis_backends = [dict(type='PatientVisBackend')]
visualizer = dict(type='Visualizer', vis_backends=vis_backends)

# The augmentation of an image is a function of this seed, the epoch and the image, on any number of workers.
randomness = dict(seed=0, deterministic=False)

load_from = None
resume = False
