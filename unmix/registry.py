"""Registries: one per config key, each a child of MMEngine's, in the scope ``unmix``."""

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry


def _child(parent: Registry, *locations: str) -> Registry:
    """Return a registry whose types are registered by importing the modules ``locations``."""
    return Registry(parent.name, parent=parent, scope='unmix', locations=list(locations))


DATASETS = _child(mmengine_registry.DATASETS, 'unmix.datasets')
DATA_SAMPLERS = _child(mmengine_registry.DATA_SAMPLERS, 'unmix.datasets')
TRANSFORMS = _child(mmengine_registry.TRANSFORMS, 'unmix.datasets')
FUNCTIONS = _child(mmengine_registry.FUNCTIONS, 'unmix.datasets')
MIXINGS = Registry('mixing', scope='unmix', locations=['unmix.mixing'])
MODELS = _child(mmengine_registry.MODELS, 'unmix.models', 'unmix.mixing')
LOOPS = _child(mmengine_registry.LOOPS, 'unmix.engine')
HOOKS = _child(mmengine_registry.HOOKS, 'unmix.checkpoint.hook', 'unmix.checkpoint.load_guard', 'unmix.engine')
LOG_PROCESSORS = _child(mmengine_registry.LOG_PROCESSORS, 'unmix.engine')
OPTIMIZERS = _child(mmengine_registry.OPTIMIZERS, 'unmix.engine')
OPTIM_WRAPPERS = _child(mmengine_registry.OPTIM_WRAPPERS, 'unmix.engine')
PARAM_SCHEDULERS = _child(mmengine_registry.PARAM_SCHEDULERS, 'unmix.engine')
METRICS = _child(mmengine_registry.METRICS, 'unmix.evaluation')
WEIGHT_INITIALIZERS = _child(mmengine_registry.WEIGHT_INITIALIZERS, 'unmix.models')
STRATEGIES = _child(mmengine_registry.STRATEGIES, 'unmix.engine')
# Nothing of ours is in these, but MMEngine warns where a scope has no registry of the kind that it looks for.
MODEL_WRAPPERS = _child(mmengine_registry.MODEL_WRAPPERS, 'unmix.models')
OPTIM_WRAPPER_CONSTRUCTORS = _child(mmengine_registry.OPTIM_WRAPPER_CONSTRUCTORS, 'unmix.engine')
VISUALIZERS = _child(mmengine_registry.VISUALIZERS, 'unmix.visualization')
VISBACKENDS = _child(mmengine_registry.VISBACKENDS, 'unmix.visualization')
