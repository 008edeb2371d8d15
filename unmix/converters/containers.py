"""Files of torch.save, safetensors, and detectron2's pickles of arrays; reading a file executes nothing."""

import json
import pickle
from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.checkpoint.allowed import ARRAYS
from unmix.checkpoint.load import load_from_local
from unmix.checkpoint.pickles import read_pickle
from unmix.checkpoint.save import save_checkpoint
from unmix.converters.family import Family, UnknownFamily

META = 'unmix'  # the entry of a safetensors file's metadata that has our ``meta``, as JSON


def read(path: str | Path) -> Any:
    """Return the content of a file, with all tensors on the CPU.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it holds more than tensors, arrays, plain values and a run's settings, or cannot be read.
    """
    path = Path(path).expanduser()
    if path.suffix == '.safetensors' and path.is_file():
        return {'state_dict': _safetensors().load_file(path)} | _written(path)
    if path.suffix == '.pkl' and path.is_file():
        try:
            with path.open('rb') as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                return read_pickle(data, ARRAYS, encoding='latin1')
        except ValueError as error:
            raise ValueError(
                f'{path} is refused: a .pkl file is expected to be a dict of arrays, as for detectron2 ({error}).'
            ) from error
    return load_from_local(str(path), map_location='cpu')


def _tensors(content: Any) -> dict[str, Tensor] | None:
    """Return the tensors of a state dict, or None if there are none."""
    if not isinstance(content, Mapping):
        return None
    found = {
        str(name): torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        for name, value in content.items()
        if isinstance(value, Tensor | np.ndarray)
    }
    return found or None


def tensors_of(content: Any, family: Family, source: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by the names of a family, without the prefix of distributed training.

    Raises:
        UnknownFamily: If it has no tensors there.
    """
    found: dict[str, Tensor] = {}
    for prefix, key in family.entries.items():
        keys = [key, 'state_dict', 'model', None] if not prefix else [key]
        entries = (content if k is None else content.get(k) for k in keys if isinstance(content, Mapping))
        entry = next(filter(None, map(_tensors, entries)), None)
        if entry is None and not prefix:
            kinds = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
            raise UnknownFamily(f'{source} has no tensors; it holds {kinds}. Expected a checkpoint with a state dict.')
        found |= {prefix + name: tensor for name, tensor in (entry or {}).items()}
    if all(name.startswith('module.') for name in found):
        found = {name.removeprefix('module.'): tensor for name, tensor in found.items()}
    return found


def wrap(tensors: Mapping[str, Tensor], family: Family) -> dict[str, Any]:
    """Return the content of a file of a family: the tensors in their entries, with its prefix, and ``family.extra``."""
    content: dict[str, Any] = dict(family.extra)
    for prefix, key in sorted(family.entries.items(), reverse=True):  # the required entry takes all that is left
        own = {name for name in tensors if name.startswith(prefix)}
        entry = {family.prefix + name.removeprefix(prefix): tensors[name] for name in tensors if name in own}
        tensors = {name: tensor for name, tensor in tensors.items() if name not in own}
        if key is None:
            content |= entry
        elif entry:
            content[key] = entry
    return content


def write(content: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write ``content`` to a file of the kind of its suffix; a safetensors file holds ``tensors`` and ``meta``."""
    if path.suffix == '.safetensors':
        written = {'format': 'pt'} | ({META: json.dumps(content['meta'])} if 'meta' in content else {})
        copied = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        _safetensors().save_file(copied, path, written)
    elif path.suffix == '.pkl':
        arrays = {
            key: {name: x.numpy() for name, x in value.items()} if isinstance(value, Mapping) else value
            for key, value in content.items()
        }
        with path.open('wb') as file:
            pickle.dump(arrays, file, protocol=4)
    else:
        save_checkpoint(dict(content), str(path))


def _written(path: Path) -> dict[str, Any]:
    """Return the ``meta`` of a safetensors file of this package; {} for those of others."""
    _safetensors()
    from safetensors import safe_open

    with safe_open(path, 'pt') as file:
        text = (file.metadata() or {}).get(META)
    try:
        meta = json.loads(text or 'null')
    except ValueError:
        return {}
    return dict(meta=meta) if isinstance(meta, dict) else {}


def _safetensors() -> Any:
    """Import safetensors; if it is not installed, a ValueError has the command that installs it."""
    try:
        from safetensors import torch as module
    except ImportError as error:
        raise ValueError(
            "A .safetensors file needs the package safetensors: pip install 'unmix[export]', or give a name in .pth."
        ) from error
    return module
