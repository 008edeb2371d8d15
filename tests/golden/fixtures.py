"""Reading a fixture, comparing with it, and replaying its recorded random draws."""

import json
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.testing import rounding


def read_index(directory: Path) -> list[dict]:
    """Return the entries of the index whose arrays lie in ``directory``."""
    index = directory / 'index.json'
    if not index.is_file():
        raise FileNotFoundError(f'{index} is missing: --golden needs a directory with index.json and .npz files.')
    return [entry for entry in json.loads(index.read_text()) if (directory / entry['file']).is_file()]


def matches(entry: dict, patterns: Iterable[str]) -> bool:
    """Whether the entry's file matches one of the patterns."""
    return any(fnmatch(entry['file'], f'{pattern}.npz') for pattern in patterns)


class Golden:
    """One fixture under one precision: ``float64``, or ``float32`` where expected values of it are recorded.

    Attributes:
        hp: Hyper-parameters.
        factory: Device and dtype under test: arguments of ``torch.zeros`` and the like, and of ``to``.
        tolerance: See :meth:`compare`. On the CPU it is that of the index. On an accelerator, which adds in an order of
            its own, it is at least what :func:`on_device` derives.
    """

    def __init__(self, directory: Path, entry: dict, dtype: torch.dtype, device: torch.device) -> None:
        self.path, self.hp, self.dtype, self.device = directory / entry['file'], entry['hp'], dtype, device
        self.factory: dict[str, Any] = dict(device=device, dtype=dtype)
        self.prefix = 'o64_' if dtype == torch.float64 else 'o32_'
        self.tolerance = (entry['tol64'] or 1e-12) if dtype == torch.float64 else entry['tol32']
        if device.type != 'cpu':
            self.tolerance = max(self.tolerance, on_device(entry, dtype))
        self._arrays: dict[str, np.ndarray] | None = None

    def __str__(self) -> str:
        return f'{self.path.name}-{str(self.dtype).removeprefix("torch.")}'

    @staticmethod
    def dtypes(entry: dict) -> list[torch.dtype]:
        """The precisions that the fixture has expected values for."""
        has_float32 = entry['tol32'] is not None and any(name.startswith('o32_') for name, *_ in entry['arrays'])
        return [torch.float64, torch.float32] if has_float32 else [torch.float64]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays of the file."""
        if self._arrays is None:
            with np.load(self.path) as file:
                self._arrays = dict(file)
        return self._arrays

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def tensor(self, name: str) -> Tensor:
        """An input on the device in the precision under test; ``img_u8*`` become (u8 - 128) / 32, integers stay."""
        tensor = torch.from_numpy(self.arrays[name])
        if name.startswith('img_u8'):
            return (tensor.to(**self.factory) - 128) / 32
        return tensor.to(**self.factory) if tensor.is_floating_point() else tensor.to(self.device)

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays whose name starts with ``prefix``, without it."""
        return {name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)}

    def check(self, actual: Tensor | np.ndarray | float, name: str, at: object = ..., scale: float = 1.0) -> None:
        """Compare with the expected array ``name`` (at an index), relative to its largest magnitude, at least 1."""
        key = self.prefix + name
        if key not in self.arrays:
            key = 'o64_' + name if 'o64_' + name in self.arrays and self.dtype == torch.float64 else ''
        if key:
            self.compare(actual, self.arrays[key][at], f'{key}[{at}]', scale)

    def compare(self, actual: Any, expected: Any, what: str, scale: float = 1.0) -> None:
        """Compare tensors, arrays or numbers by the fixtures' measure."""
        actual, expected = (
            value.detach().cpu().double().numpy() if isinstance(value, Tensor) else np.asarray(value, np.float64)
            for value in (actual, expected)
        )
        assert actual.shape == expected.shape, f'{what}: shape {actual.shape}, expected {expected.shape}'
        difference = np.abs(actual - expected).max(initial=0) / max(1.0, np.abs(expected).max(initial=0))
        assert difference <= scale * self.tolerance, f'{what}: differs by {difference:.3g} > {self.tolerance:.3g}'


def on_device(entry: dict, dtype: torch.dtype) -> float:
    """How far an accelerator may be off by rounding.

    No sum of a fixture has more terms than its largest batch of images, or its largest array. Its softmax enlarges a
    relative error by the largest score, which is 1 over the temperature for features of unit length.
    """
    hp = entry['hp']
    sizes = [shape for _, shape, *_ in entry['arrays']] + list(hp.get('input_shapes', []))
    temperature = min(hp.get(name) or 1.0 for name in ('T', 'tau', 'temperature', 't'))
    return rounding(max(int(np.prod(shape[-4:])) for shape in sizes), 1 / min(temperature, 1.0), dtype)


class Recorded:
    """Stands in for a numpy Generator and returns recorded draws, each list in its order.

    Args:
        **draws: Lists of values by method: ``random``, ``beta``, ``integers``, ``permutation``.
    """

    def __init__(self, **draws: Iterable) -> None:
        self.draws = {name: list(values) for name, values in draws.items()}

    def random(self) -> float:
        return float(self.draws['random'].pop(0))

    def beta(self, a: float, b: float) -> float:
        return float(self.draws['beta'].pop(0))

    def integers(self, high: int) -> int:
        return int(self.draws['integers'].pop(0))

    def permutation(self, size: int) -> np.ndarray:
        permutation = np.asarray(self.draws['permutation'].pop(0))
        assert len(permutation) == size
        return permutation
