"""Checks of a config: MMEngine accepts, or meets only hours later, misspelt keys, types and arguments."""

import difflib
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Union, get_args, get_origin

import torch
from mmengine import registry as mmengine_registry
from mmengine.evaluator import Evaluator
from mmengine.optim import OptimWrapper
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, LogProcessor, Runner, TestLoop, ValLoop
from mmengine.utils.dl_utils import set_multi_processing
from torch import Tensor
from torch.distributed import init_process_group
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from unmix import registry as unmix_registry

# Keys that MMEngine's builders take out of a config before they call its type, by path or name of the registry.
BUILDER_KEYS: dict[str, set[str]] = {
    'optim_wrapper': {'constructor', 'paramwise_cfg'},
    'hook': {'priority'},
    'parameter scheduler': {'convert_to_iter_based'},
    'loop': {'by_epoch', 'type'},
    'optimizer wrapper': {'constructor', 'paramwise_cfg'},
    'vis_backend': {'name'},
    'weight initializer': {'layer', 'name', 'override'},
    'dataloader': {'num_batch_per_epoch', 'disable_subprocess_warning'},
}
ALWAYS = {'type', '_scope_', '_delete_'}
# Keys whose value, or whose list's items, are built, so that they need a type.
COMPONENTS = {
    *('model', 'backbone', 'neck', 'head', 'optimizer', 'param_scheduler', 'custom_hooks', 'vis_backends'),
    *('dataset', 'pipeline', 'transforms', 'sampler', 'collate_fn', 'val_evaluator', 'test_evaluator'),
}
# Keys of which the Runner needs all or none.
STAGES = (
    ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    ('val_dataloader', 'val_cfg', 'val_evaluator'),
    ('test_dataloader', 'test_cfg', 'test_evaluator'),
)
# Top-level keys that the Runner and the tools read.
RUNNER_KEYS = {
    *inspect.signature(Runner).parameters,
    *('data_root', 'num_threads', 'custom_imports', 'auto_scale_lr', 'compile', 'strategy', 'model_wrapper_cfg'),
    *('find_unused_parameters', 'sync_bn', 'activation_checkpointing', 'efficient_conv_bn_eval'),
    *('init_weights_for_test_or_val',),
}
LITERAL = {'clip_grad', 'on_trace_ready'}  # keys of dicts whose ``type`` is a word, not a class
# Those of them that are dicts.
DICTS = (
    *(
        'model',
        'optim_wrapper',
        'visualizer',
        'default_hooks',
        'env_cfg',
        'randomness',
        'log_processor',
        'auto_scale_lr',
    ),
    *(f'{stage}_{part}' for stage in ('train', 'val', 'test') for part in ('dataloader', 'cfg')),
)
MISSPELT = 0.9  # similarity from which an unknown name is taken for a known one, misspelt
VIEWS = {'MultiView', 'SingleView', 'MultiCrop'}  # pipelines that can normalise
KINDS: dict[type, str] = {bool: 'True or False', int: 'a whole number', float: 'a number'}


def walk(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Yield ``node`` and all values below it, each with its dotted path."""
    yield path, node
    pairs = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, value in pairs:
        yield from walk(value, f'{path}.{key}' if path else str(key))


def dicts(node: Any) -> list[tuple[str, Any]]:
    """Return ``node`` and all values below it that are dicts, each with its dotted path."""
    return [(path, value) for path, value in walk(node) if isinstance(value, Mapping)]


def suggest(name: str, valid: Iterable[str], otherwise: str = '') -> str:
    """Return a sentence with the valid names nearest to ``name``, in upper or lower case.

    Without a near one it lists the valid names, if they are 40 at most, or is ``otherwise``.
    """
    valid = sorted(valid)
    by_lower = {other.lower(): other for other in valid}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    if near:
        return f'Did you mean {" or ".join(by_lower[other] for other in near)}?'
    return otherwise or (f'Valid are: {", ".join(valid)}.' if 0 < len(valid) <= 40 else '')


def arguments(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the keywords that a class or function takes, and whether it takes any others.

    A class that passes ``**kwargs`` on takes its base classes' arguments.
    """
    classes = inspect.getmro(function) if inspect.isclass(function) else (function,)
    found: dict[str, inspect.Parameter] = {}
    for init in [vars(cls).get('__init__') if inspect.isclass(cls) else cls for cls in classes]:
        if init is None or init is object.__init__:
            continue
        parameters = inspect.signature(init).parameters.values()
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        found = {p.name: p for p in parameters if p.kind in kinds and p.name != 'self'} | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return found, False
    return found, True


def expected_instead(parameter: inspect.Parameter, value: Any) -> str | None:
    """Return what an argument expects instead of ``value``; None if ``value`` may be right.

    Only arguments that are dicts, numbers or switches are checked, by annotation or, without one, by their default;
    None and tensors may be allowed beside. Dicts take no other value of a config. The others take no texts, lists and
    dicts, and a whole number no 0.5.
    """
    kinds = _kinds(parameter)
    if kinds and all(get_origin(kind) is dict for kind in kinds):
        lacking = value is None and parameter.default is not None and kinds == {parameter.annotation}
        return "a dict, such as dict(type='...')" if lacking or isinstance(value, str | int | float | list) else None
    if not kinds or not kinds <= KINDS.keys() or value is None:
        return None
    if not isinstance(value, str | list | tuple | Mapping) and (float in kinds or not isinstance(value, float)):
        return None
    expected = KINDS[max(kinds, key=list(KINDS).index)]
    try:
        return f'{expected}, {value} without quotes' if isinstance(value, str) and [float(value)] else expected
    except ValueError:
        return expected


def _kinds(parameter: inspect.Parameter) -> set[Any]:
    annotation, default = parameter.annotation, parameter.default
    if annotation is parameter.empty:  # an unannotated 1 may take 0.5, and an unannotated True anything
        return {float} if type(default) in (int, float) else set()
    if isinstance(annotation, str):  # by ``from __future__ import annotations``
        named = {kind.__name__: kind for kind in KINDS}
        return {named.get(part, part) for part in annotation.replace(' ', '').split('|')} - {'None'}
    union = get_origin(annotation) in (Union, types.UnionType)
    return set(get_args(annotation) if union else [annotation]) - {type(None), Tensor}


def _keys(*functions: Callable[..., Any], extra: Iterable[str] = ()) -> set[str]:
    return {*extra, *(name for function in functions for name in arguments(function)[0])}


# What the Runner takes from dicts that need no type, by path.
UNTYPED: dict[str, set[str]] = {
    'env_cfg': {'cudnn_benchmark', 'matmul_precision', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    'env_cfg.mp_cfg': _keys(set_multi_processing),
    'env_cfg.dist_cfg': _keys(init_process_group, extra=('init_backend', 'port')),
    'randomness': _keys(Runner.set_randomness),
    'log_processor': _keys(LogProcessor),
    'model_wrapper_cfg': _keys(DistributedDataParallel, extra=('detect_anomalous_params',)),
    'optim_wrapper': _keys(OptimWrapper, extra=('constructor', 'paramwise_cfg')),
    'train_cfg': _keys(EpochBasedTrainLoop, IterBasedTrainLoop, extra=('by_epoch',)),
    'val_cfg': _keys(ValLoop),
    'test_cfg': _keys(TestLoop),
    'val_evaluator': _keys(Evaluator),
    'test_evaluator': _keys(Evaluator),
    'auto_scale_lr': {'enable', 'base_batch_size'},
    'compile': _keys(torch.compile, extra=('target',)),
    'custom_imports': {'imports', 'allow_failed_imports'},
}


def registries() -> list[Registry]:
    """Return all registries that a config can reach, ours first."""
    modules = (unmix_registry, mmengine_registry)
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Registry)]
    return sorted(found, key=lambda registry: registry.scope != 'unmix')


def find_type(name: Any) -> tuple[Callable[..., Any] | None, str]:
    """Return what ``type=name`` builds, and the name of its registry; (None, '') if no registry has it."""
    if not isinstance(name, str):
        return name, ''
    for registry in registries():
        registry.import_from_location()
        # With a plain name, ``get`` would also try to import a module of that name, for each registry anew.
        found = registry.get(name) if '.' in name else registry.module_dict.get(name)
        if found is not None:
            return found, registry.name
    return None, ''


def check_kinds(cfg: Mapping[str, Any]) -> None:
    """Check that the Runner's keys that are dicts or lists of dicts are such.

    Raises:
        ValueError: It names the key, what was received and what was expected.
    """
    for key in DICTS:
        if not isinstance(cfg.get(key, None) or {}, Mapping):
            raise ValueError(f'{key} is {cfg[key]!r} ({type(cfg[key]).__name__}); expected a dict, or None.')
    backends = (cfg.get('visualizer') or {}).get('vis_backends')
    for key, value in (('custom_hooks', cfg.get('custom_hooks')), ('visualizer.vis_backends', backends)):
        items = value if isinstance(value, list | tuple) else [value]
        wrong = [item for item in items if isinstance(item, str | int | float)]
        if wrong or isinstance(value, Mapping):
            raise ValueError(
                f"{key} is {value!r}; expected a list of dicts: [dict(type='Name'), ...]. On the command line: "
                f'{key}="[dict(type=\'Name\')]", or {key}.0.type=Name for the first.'
            )


def check_config(cfg: Mapping[str, Any]) -> None:
    """Check every ``type`` in the config, its arguments, and top-level keys that nearly are the Runner's.

    Raises:
        ValueError: For the first unknown type or argument, value of another kind, missing type, or misspelt top-level
            key; it names the place, what was received and the nearest valid names.
    """
    for path, node in dicts(cfg):
        key, used = path.rpartition('.')[2], path.partition('.')[0] in RUNNER_KEYS  # else a part of something
        used = used and '.custom_keys' not in path  # names of modules
        if key.endswith('dataloader'):
            if used and node.get('dataset') is None:
                raise ValueError(f"{path}.dataset is missing. Give one, e.g. dict(type='ImageFolder', data_root=DIR).")
            dataset = node.get('dataset')
            if isinstance(dataset, str | int | float | list | tuple):
                raise ValueError(
                    f'{path}.dataset is {dataset!r} ({type(dataset).__name__}); expected a dict, such as '
                    "dict(type='ImageFolder', data_root=DIR)."
                )
            check_arguments(path, node, DataLoader, 'dataloader')
            size = node.get('batch_size')
            if isinstance(size, int) and size < 1:
                raise ValueError(f'{path}.batch_size is {size}; expected a whole number from 1.')
        elif 'type' in node and key not in LITERAL:
            function, registry_name = find_type(node['type'])
            if function is None:
                known = {name for registry in registries() for name in registry.module_dict}
                raise ValueError(
                    f'{path}.type is {node["type"]!r}, which is not registered. {suggest(node["type"], known)}'
                )
            check_arguments(path, node, function, registry_name)
        elif path in UNTYPED and not _of_parts(path, node):
            unknown = next((name for name in node if name not in UNTYPED[path] | ALWAYS), None)
            if unknown is not None:
                raise ValueError(
                    f'{path}.{unknown}: the config has no such key. {suggest(str(unknown), UNTYPED[path])}'
                )
        elif (
            used
            and not _of_parts(path, node)
            and (path.split('.')[-2] if key.isdigit() and '.' in path else key) in COMPONENTS
        ):
            raise ValueError(
                f'{path} has no type, only the keys {", ".join(node) or "of none"}. Add the name of what to build, '
                f"type='...'; a base's type is lost by _delete_=True."
            )
    check_normalization(cfg)
    for key in cfg:
        near = difflib.get_close_matches(key, RUNNER_KEYS, n=1, cutoff=MISSPELT)
        if near and key not in RUNNER_KEYS:
            raise ValueError(f'{key}: the config has no such key. Did you mean {near[0]}?')


def _component(path: str) -> str:
    """Return the key of a dict, or of the list that it is in."""
    *_, parent, key = ['', *path.split('.')]
    return parent if key.isdigit() and parent else key


def _of_parts(path: str, node: Mapping[str, Any]) -> bool:
    """Whether a dict has an optimiser or a schedule for each of several parts of a model."""
    if path == 'optim_wrapper':
        return any(isinstance(value, Mapping) and 'optimizer' in value for value in node.values())
    return path == 'param_scheduler' and len(node) > 0 and all(isinstance(v, list | Mapping) for v in node.values())


def check_arguments(path: str, node: Mapping[str, Any], function: Callable[..., Any], registry: str) -> None:
    """Check the keys and values of one dict of the config against the arguments of the function that it is passed to.

    Raises:
        ValueError: If ``function`` takes no such argument, or another kind of value.
    """
    known, takes_any = arguments(function)
    name = node.get('type', function.__name__)
    name = name if isinstance(name, str) else function.__name__
    extra = ALWAYS | BUILDER_KEYS.get(path, set()) | BUILDER_KEYS.get(registry, set())
    for key in node.keys() - extra:
        if key not in known and (not takes_any or difflib.get_close_matches(key, known, n=1, cutoff=MISSPELT)):
            raise ValueError(f'{path}.{key}: {name} has no argument {key!r}. {suggest(key, known)}')
        expected = expected_instead(known[key], node[key]) if key in known else None
        if expected is not None:
            received = type(node[key]).__name__.replace('ConfigDict', 'dict')
            raise ValueError(f'{path}.{key} is {node[key]!r} ({received}); {name} expects {expected}.')


def check_normalization(cfg: Mapping[str, Any]) -> None:
    """Refuse a config that normalises its images twice.

    Raises:
        ValueError: If a pipeline and ``data_preprocessor`` both do so.
    """
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if preprocessor.get('mean') is None:
        return
    for path, node in dicts({key: value for key, value in cfg.items() if key.endswith(('dataloader', '_cfg'))}):
        name = getattr(find_type(node['type'])[0], '__name__', '') if node.get('type') else ''
        if name == 'Normalize' or (name in VIEWS and node.get('mean') is not None):
            raise ValueError(
                f'{path} normalises the images, and data_preprocessor.mean does so too. Take one of them out: '
                f'{"the transform Normalize" if name == "Normalize" else f"{path}.mean and std"}, or set '
                'data_preprocessor.mean=None data_preprocessor.std=None.'
            )


def check_stages(cfg: Mapping[str, Any]) -> None:
    """Check that training, validation and test have all of their three keys or none.

    Raises:
        ValueError: If a part is missing.
    """
    for keys in STAGES:
        missing = [key for key in keys if cfg.get(key) is None]
        given = [key for key in keys if key not in missing]
        if missing and given:
            raise ValueError(
                f'The config has {" and ".join(given)}, but not {" and ".join(missing)}. Give all three, or set them '
                'to None.'
            )
