"""Hooks: what is logged, what the user sees, what is watched."""

from .cluster_hook import ClusterHook
from .collapse_hook import CollapseHook
from .instance_hook import InstanceHook
from .lazy_hooks import LazyRuntimeInfoHook, LazyTimerHook
from .load_guard_hook import LoadGuardHook
from .progress_hook import ProgressHook
from .report_hook import ReportHook
from .scalar_buffer import ScalarBuffer

__all__ = [
    'ClusterHook',
    'CollapseHook',
    'InstanceHook',
    'LazyRuntimeInfoHook',
    'LazyTimerHook',
    'LoadGuardHook',
    'ProgressHook',
    'ReportHook',
    'ScalarBuffer',
]
