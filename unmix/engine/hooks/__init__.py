"""Hooks: what is logged, what the user sees, what is watched."""

from .cluster_hook import ClusterHook
from .finite_loss_hook import FiniteLossHook
from .health_hook import HealthHook
from .instance_hook import InstanceHook
from .lazy_hooks import LazyRuntimeInfoHook, LazyTimerHook, ScalarBuffer
from .online_probe_hook import OnlineProbeHook
from .progress_hook import ProgressHook
from .report_hook import ReportHook
from .skip_hook import SkipHook

__all__ = [
    'ClusterHook',
    'FiniteLossHook',
    'HealthHook',
    'InstanceHook',
    'LazyRuntimeInfoHook',
    'LazyTimerHook',
    'OnlineProbeHook',
    'ProgressHook',
    'ReportHook',
    'ScalarBuffer',
    'SkipHook',
]
