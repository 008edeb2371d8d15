"""Where configs meet code: one registry per config key, each a child of MMEngine's, in the scope ``unmix``."""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOG_PROCESSORS as MMENGINE_LOG_PROCESSORS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS as MMENGINE_OPTIMIZERS
from mmengine.registry import PARAM_SCHEDULERS as MMENGINE_PARAM_SCHEDULERS
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISBACKENDS as MMENGINE_VISBACKENDS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS
from mmengine.registry import WEIGHT_INITIALIZERS as MMENGINE_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='unmix', locations=['unmix.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='unmix', locations=['unmix.datasets'])
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, scope='unmix', locations=['unmix.datasets'])
FUNCTIONS = Registry('function', parent=MMENGINE_FUNCTIONS, scope='unmix', locations=['unmix.datasets'])
MIXINGS = Registry('mixing', scope='unmix', locations=['unmix.mixing'])
MODELS = Registry('model', parent=MMENGINE_MODELS, scope='unmix', locations=['unmix.models', 'unmix.mixing'])
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope='unmix', locations=['unmix.engine'])
HOOKS = Registry(
    'hook',
    parent=MMENGINE_HOOKS,
    scope='unmix',
    locations=['unmix.checkpoint.hook', 'unmix.checkpoint.load_guard', 'unmix.engine'],
)
LOG_PROCESSORS = Registry('log processor', parent=MMENGINE_LOG_PROCESSORS, scope='unmix', locations=['unmix.engine'])
OPTIMIZERS = Registry('optimizer', parent=MMENGINE_OPTIMIZERS, scope='unmix', locations=['unmix.engine'])
OPTIM_WRAPPERS = Registry('optim wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope='unmix', locations=['unmix.engine'])
PARAM_SCHEDULERS = Registry(
    'param scheduler', parent=MMENGINE_PARAM_SCHEDULERS, scope='unmix', locations=['unmix.engine']
)
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope='unmix', locations=['unmix.evaluation'])
WEIGHT_INITIALIZERS = Registry(
    'weight initializer', parent=MMENGINE_WEIGHT_INITIALIZERS, scope='unmix', locations=['unmix.models']
)
STRATEGIES = Registry('strategy', parent=MMENGINE_STRATEGIES, scope='unmix', locations=['unmix.engine'])
# Nothing of ours is in these, but MMEngine warns where a scope has no registry of the kind that it looks for.
MODEL_WRAPPERS = Registry('model wrapper', parent=MMENGINE_MODEL_WRAPPERS, scope='unmix', locations=['unmix.models'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='unmix',
    locations=['unmix.engine'],
)
VISUALIZERS = Registry('visualizer', parent=MMENGINE_VISUALIZERS, scope='unmix', locations=['unmix.visualization'])
VISBACKENDS = Registry('vis_backend', parent=MMENGINE_VISBACKENDS, scope='unmix', locations=['unmix.visualization'])
