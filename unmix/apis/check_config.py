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

# Keys that MMEngine's builders take out of a config before they call its type, by the place in the config.
BUILDER_KEYS: dict[str, set[str]] = {
    'optim_wrapper': {'constructor', 'paramwise_cfg'},
    'hook': {'priority'},
    'param scheduler': {'convert_to_iter_based'},
    'loop': {'by_epoch', 'type'},
}
ALWAYS = {'type', '_scope_', '_delete_'}
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


def valid_arguments(function: Callable) -> tuple[set[str], bool]:
    """Return the names that a class or function takes as keywords, and whether it takes others too.

    A class that hands ``**kwargs`` on takes its base classes' arguments.
    """
    classes = function.__mro__ if inspect.isclass(function) else [function]
    names: set[str] = set()
    for cls in classes:
        if inspect.isclass(cls) and '__init__' not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__ if inspect.isclass(cls) else cls).parameters.values()
        if cls is object:
            break
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {'self'}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names, False
    return names, True


def suggest(name: str, valid: Iterable[str]) -> str:
    """Say which valid names are nearest to ``name``."""
    valid = sorted(valid)
    near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    if near:
        return f'Did you mean {" or ".join(near)}?'
    return f'Valid are: {", ".join(valid)}.' if valid else ''


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
        ValueError: On the first unknown type or argument, or misspelt top-level key; it names the place, what was
            received and the nearest valid names.
    """
    for path, node in walk(cfg):
        if 'type' not in node:
            continue
        function, registry = find_type(node['type'])
        if function is None:
            raise ValueError(
                f'{path}.type is {node["type"]!r}, which is not registered. {suggest(node["type"], known_types())}'
            )
        valid, takes_any = valid_arguments(function)
        extra = ALWAYS | BUILDER_KEYS.get(path, set()) | BUILDER_KEYS.get(registry, set())
        for key in node.keys() - extra - valid:
            if not takes_any or difflib.get_close_matches(key, valid, n=1, cutoff=MISSPELT):
                raise ValueError(f'{path}.{key}: {node["type"]} has no argument {key!r}. {suggest(key, valid)}')
    runner_keys = runner_arguments()
    for key in cfg:
        near = difflib.get_close_matches(key, runner_keys, n=1, cutoff=MISSPELT)
        if near and key not in runner_keys:
            raise ValueError(f'{key}: the config has no such key. Did you mean {near[0]}?')


def runner_arguments() -> set[str]:
    """Top-level keys that the Runner and the tools read."""
    return set(inspect.signature(Runner.__init__).parameters) - {'self'} | TOP_LEVEL


def check_options(before: Mapping, after: Mapping, path: str = '') -> None:
    """Refuse keys that options have added where nothing reads them.

    Args:
        before: The config as it was.
        after: The config with the options merged; arguments of types are left to :func:`check_config`.
        path: Dotted path of both, for the message.

    Raises:
        ValueError: It names the key and the nearest valid ones.
    """
    for key, value in after.items():
        place = f'{path}.{key}' if path else str(key)
        if key in before:
            if isinstance(value, Mapping) and isinstance(before[key], Mapping):
                check_options(before[key], value, place)
            continue
        if 'type' in after or (isinstance(value, Mapping) and 'type' in value and path):
            continue
        valid = set(before)
        if not path:
            valid = valid | runner_arguments()
        elif path.endswith('dataloader'):
            valid = valid | valid_arguments(DataLoader)[0]
        if key not in valid:
            raise ValueError(f'--cfg-options {place}: the config has no such key. {suggest(str(key), valid)}')
