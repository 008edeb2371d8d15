"""Files with tensors: torch.save, safetensors, and detectron2's pickles of arrays. None is executed when read."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.checkpoint.load import allowed_globals, load_from_local
from unmix.checkpoint.save import save_checkpoint
from unmix.converters.family import Family


class _ArrayUnpickler(pickle.Unpickler):
    """Knows numeric arrays only."""

    def find_class(self, module: str, name: str) -> Any:
        for entry in allowed_globals():
            value, path = entry if isinstance(entry, tuple) else (entry, f'{entry.__module__}.{entry.__qualname__}')
            if path == f'{module}.{name}' and module.partition('.')[0] == 'numpy':
                return value
        raise pickle.UnpicklingError(f'{module}.{name} is not an array')


def read(path: str | Path) -> Any:
    """Return the content of a file, tensors on the CPU.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it holds more than tensors, arrays, plain values and a run's settings, or cannot be read.
    """
    path = Path(path).expanduser()
    if path.suffix == '.safetensors' and path.is_file():
        return {'state_dict': _safetensors().load_file(path)}
    if path.suffix == '.pkl' and path.is_file():
        try:
            with path.open('rb') as file:
                return _ArrayUnpickler(file, encoding='latin1').load()
        except (pickle.UnpicklingError, EOFError) as error:
            raise ValueError(
                f'{path} is refused: a .pkl file is expected to be a dict of arrays, as for detectron2 ({error}).'
            ) from error
    # The settings that argparse made, in the checkpoints of PIC and CMC, are plain values.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return load_from_local(str(path), map_location='cpu')


def _tensors(content: Any) -> dict[str, Tensor] | None:
    """Return the tensors of a state dict, or None if it is none."""
    if not isinstance(content, Mapping):
        return None
    found = {
        str(name): torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        for name, value in content.items()
        if isinstance(value, Tensor | np.ndarray)
    }
    return found or None


def tensors_of(content: Any, family: Family, source: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by the names of a family, without what distributed training put before them.

    Raises:
        ValueError: If it has none.
    """
    found: dict[str, Tensor] = {}
    for prefix, key in family.entries.items():
        keys = [key, 'state_dict', 'model', None] if not prefix else [key]
        entries = (content if k is None else content.get(k) for k in keys if isinstance(content, Mapping))
        entry = next(filter(None, map(_tensors, entries)), None)
        if entry is None and not prefix:
            kinds = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
            raise ValueError(f'{source} has no tensors; it holds {kinds}. Expected a checkpoint with a state dict.')
        found |= {prefix + name: tensor for name, tensor in (entry or {}).items()}
    if all(name.startswith('module.') for name in found):
        found = {name.removeprefix('module.'): tensor for name, tensor in found.items()}
    return found


def wrap(tensors: Mapping[str, Tensor], family: Family) -> dict[str, Any]:
    """Return the content of a file of a family: tensors under their entries, with its prefix and all else it has."""
    content: dict[str, Any] = dict(family.extra)
    for prefix, key in sorted(family.entries.items(), reverse=True):  # the required entry takes what is left
        own = {name for name in tensors if name.startswith(prefix)}
        entry = {family.prefix + name.removeprefix(prefix): tensors[name] for name in tensors if name in own}
        tensors = {name: tensor for name, tensor in tensors.items() if name not in own}
        if key is None:
            content |= entry
        elif entry:
            content[key] = entry
    return content


def write(content: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a file of the kind that its suffix names: ``content``, or ``tensors`` alone where it holds nothing else."""
    if path.suffix == '.safetensors':
        _safetensors().save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    elif path.suffix == '.pkl':
        arrays = {
            key: {name: x.numpy() for name, x in value.items()} if isinstance(value, Mapping) else value
            for key, value in content.items()
        }
        with path.open('wb') as file:
            pickle.dump(arrays, file, protocol=4)
    else:
        save_checkpoint(dict(content), str(path))


def _safetensors() -> Any:
    """Import safetensors; a ValueError says how to install it."""
    try:
        from safetensors import torch as module
    except ImportError as error:
        raise ValueError(
            "A .safetensors file needs the package safetensors: pip install 'unmix[export]', or give a name in .pth."
        ) from error
    return module
