"""Refuses options of the command line that nothing would read."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from unmix.config.arguments import valid_arguments
from unmix.config.check import runner_arguments, suggest

FOLLOWED = {'data_root', 'data_preprocessor'}  # top-level variables that load_config takes to where they are used


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


def check_variables(before: Mapping, options: Mapping[str, Any]) -> None:
    """Refuse to change a variable of a config file, such as ``max_epochs``: the file has used it when it was read.

    Args:
        before: The config without the options.
        options: Values by dotted key.

    Raises:
        ValueError: It names the keys in which the variable was used.
    """
    for option in options:
        name, _, rest = option.partition('.')
        if name not in before or name in runner_arguments() | FOLLOWED:
            continue
        places = [path for path, node in _below(before) if path.partition('.')[0] != name and _same(node, before[name])]
        places = [path for path in places if path.rpartition('.')[2] == name] or places
        if places:
            keys = ' '.join(f'{path}.{rest}' if rest else path for path in places[:4])
            raise ValueError(
                f'--cfg-options {option}: {name} is a variable of the config file, which has used it already, so that '
                f'a change has no effect. Set where it was used: {keys}'
            )


def _below(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """All values below ``node``, each with its dotted path."""
    pairs = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, value in pairs:
        place = f'{path}.{key}' if path else str(key)
        yield place, value
        yield from _below(value, place)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other
