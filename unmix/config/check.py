"""Refuses what MMEngine takes in silence, or only meets hours later: misspelt keys, types and arguments."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from unmix import registry as unmix_registry
from unmix.config.arguments import arguments, expected_instead

# Keys that MMEngine's builders take out of a config before they call its type, by the place in the config.
BUILDER_KEYS: dict[str, set[str]] = {
    'optim_wrapper': {'constructor', 'paramwise_cfg'},
    'hook': {'priority'},
    'param scheduler': {'convert_to_iter_based'},
    'loop': {'by_epoch', 'type'},
}
ALWAYS = {'type', '_scope_', '_delete_'}
# Keys whose value, or whose list's items, are built, so that they need a type.
COMPONENTS = {
    *('model', 'backbone', 'neck', 'head', 'optimizer', 'param_scheduler', 'custom_hooks', 'vis_backends'),
    *('dataset', 'pipeline', 'transforms', 'sampler', 'collate_fn', 'val_evaluator', 'test_evaluator'),
}
# Keys that the Runner wants all of, or none.
STAGES = (
    ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    ('val_dataloader', 'val_cfg', 'val_evaluator'),
    ('test_dataloader', 'test_cfg', 'test_evaluator'),
)
MISSPELT = 0.9  # similarity from which an unknown name is taken for a known one, misspelt
TOP_LEVEL = {
    'default_scope',
    'data_root',
    'num_threads',
    'custom_imports',
    'env_cfg',
    'auto_scale_lr',
    'compile',
    'launcher',
    'strategy',
}


def registries() -> list[Registry]:
    """All registries that a config can reach, ours first."""
    modules = (unmix_registry, mmengine_registry)
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Registry)]
    return sorted(found, key=lambda registry: registry.scope != 'unmix')


def find_type(name: Any) -> tuple[Callable | None, str]:
    """Return what ``type=name`` builds, and the name of its registry; (None, '') if no registry has it."""
    if not isinstance(name, str):
        return name, ''
    for registry in registries():
        found = registry.get(name)
        if found is not None:
            return found, registry.name
    return None, ''


def known_types() -> list[str]:
    """Names of all registered types."""
    return sorted({name for registry in registries() for name in registry.module_dict})


def suggest(name: str, valid: Iterable[str]) -> str:
    """Say which valid names are nearest to ``name``, in upper or lower case."""
    valid = sorted(valid)
    by_lower = {other.lower(): other for other in valid}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    if near:
        return f'Did you mean {" or ".join(by_lower[other] for other in near)}?'
    return f'Valid are: {", ".join(valid)}.' if 0 < len(valid) <= 40 else ''


def walk(node: Any, path: str = '') -> Iterator[tuple[str, Mapping]]:
    """All dicts below ``node``, each with its dotted path."""
    if isinstance(node, Mapping):
        yield path, node
        for key, value in node.items():
            yield from walk(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from walk(value, f'{path}.{i}')


def check_config(cfg: Mapping) -> None:
    """Check every ``type`` in the config, its arguments, and top-level keys that nearly are the Runner's.

    Raises:
        ValueError: On the first unknown type or argument, value of another kind, missing type, or misspelt top-level
            key; it names the place, what was received and the nearest valid names.
    """
    runner_keys = runner_arguments()
    for path, node in walk(cfg):
        key, used = path.rpartition('.')[2], path.partition('.')[0] in runner_keys  # else a part of something
        if key.endswith('dataloader'):
            if used and node.get('dataset') is None:
                raise ValueError(f"{path}.dataset is missing. Give one, e.g. dict(type='ImageFolder', data_root=DIR).")
            check_arguments(path, node, DataLoader, '')
        elif 'type' in node:
            function, registry = find_type(node['type'])
            if function is None:
                raise ValueError(
                    f'{path}.type is {node["type"]!r}, which is not registered. {suggest(node["type"], known_types())}'
                )
            check_arguments(path, node, function, registry)
        elif used and (path.split('.')[-2] if key.isdigit() and '.' in path else key) in COMPONENTS:
            raise ValueError(
                f'{path} has no type, only the keys {", ".join(node) or "of none"}. Add the name of what to build, '
                f"type='...'; a base's type is lost by _delete_=True."
            )
    for key in cfg:
        near = difflib.get_close_matches(key, runner_keys, n=1, cutoff=MISSPELT)
        if near and key not in runner_keys:
            raise ValueError(f'{key}: the config has no such key. Did you mean {near[0]}?')


def check_arguments(path: str, node: Mapping, function: Callable, registry: str) -> None:
    """Check the keys of one dict of the config against what it is handed to, and the kinds of their values.

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


def check_stages(cfg: Mapping) -> None:
    """Check that what belongs together for training, validation or test is all there, or nothing of it.

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


def runner_arguments() -> set[str]:
    """Top-level keys that the Runner and the tools read."""
    return set(inspect.signature(Runner.__init__).parameters) - {'self'} | TOP_LEVEL
