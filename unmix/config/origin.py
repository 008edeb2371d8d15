"""Where each value of a config comes from: file and line, and what it has overridden."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from unmix.config.load import OVERLAYS, find_config, option_bases, reading
from unmix.utils.run_files import leaves

_NESTED = ast.List | ast.Tuple | ast.Dict | ast.Call


class Place(NamedTuple):
    """Line of a file in which a value is written."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f'{self.file}:{self.line}'


def origins(cfg: Config) -> dict[str, tuple[Any, list[Place | str]]]:
    """Return for each value of a config, by its key, the value and where it is written, the place that counts first.

    A value that is a variable in the file, or is made by an expression, has the line of that. The place is
    ``'--cfg-options'`` for options, ``'filled in'`` for what no file says, such as defaults of a loader, and ``'set by
    the program'`` for what was changed after the config was read, such as by ``--work-dir`` or ``--data``. Of a config
    that :func:`load_config` has not read the places are those of its file alone.

    Args:
        cfg: As :func:`load_config` returns it, or a copy of that.
    """
    read = reading(cfg)
    options = dict(read.options if read else {})
    added = [find_config(name) for name in option_bases(options.pop('_base_', []))]
    files = [*reversed(added), *([Path(cfg.filename)] if cfg.filename else [])]
    written = [_written(file) for top in files for file in _with_bases(top)]
    found: dict[str, tuple[Any, list[Place | str]]] = {}
    for key, value in leaves(cfg._cfg_dict):
        names = [key, key.removeprefix('model.')] if key.startswith('model.data_preprocessor.') else [key]
        places: list[Place | str] = [
            place
            for group in (*([f'{overlay}.{key}'] for overlay in reversed(OVERLAYS)), names)
            for file in written
            for name in group
            if (place := _place(file, name)) is not None
        ]
        if any(f'{key}.'.startswith(f'{option}.') for option in options):
            places.insert(0, '--cfg-options')
        if read is not None and (key not in read.values or read.values[key] != value):
            places = ['set by the program']
        found[key] = value, places or ['filled in']
    return found


def _with_bases(file: Path) -> Iterator[Path]:
    """Yield a file and all that it inherits, the one that counts first."""
    yield file
    for base in reversed(Config._get_base_files(str(file))):  # noqa: SLF001
        yield from _with_bases(Path(Config._get_cfg_path(base, str(file))[0]))  # noqa: SLF001


def _written(file: Path) -> dict[str, Place]:
    """Return the places of all values in a file, by key; those of expressions by the key of their assignment."""
    found: dict[str, Place] = {}
    if file.suffix != '.py':
        return found
    for node in ast.parse(file.read_text(encoding='utf-8')).body:
        for target in node.targets if isinstance(node, ast.Assign) else []:
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            for name in names:
                if isinstance(name, ast.Name) and isinstance(node, ast.Assign):
                    value = node.value if name is target else name  # of several names: the line alone
                    found |= {key: Place(file, line) for key, line in _values(name.id, value, node.lineno)}
    return found


def _values(key: str, node: ast.expr, line: int) -> Iterator[tuple[str, int]]:
    parts: list[tuple[str, ast.expr]] = []
    whole = True  # whether the parts are all that there is
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        parts = [(word.arg, word.value) for word in node.keywords if word.arg is not None]
        whole = len(parts) == len(node.keywords) and not node.args
    elif isinstance(node, ast.Dict):
        parts = [(str(k.value), v) for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)]
    elif isinstance(node, ast.List | ast.Tuple) and any(isinstance(item, _NESTED) for item in node.elts):
        parts = [(str(number), item) for number, item in enumerate(node.elts)]
    if not parts or not whole:
        yield key, line
    for name, value in parts:
        yield from _values(f'{key}.{name}', value, value.lineno)


def _place(written: Mapping[str, Place], key: str) -> Place | None:
    """Return the place of a value, or of the expression that it is a part of."""
    while key:
        if key in written:
            return written[key]
        key = key.rpartition('.')[0]
    return None
