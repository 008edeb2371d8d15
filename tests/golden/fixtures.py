"""Reading a fixture, comparing with it, and replaying its recorded random draws."""

import json
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


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
    """One fixture under one precision: ``float64``, or ``float32`` where expected values of it are recorded."""

    def __init__(self, directory: Path, entry: dict, dtype: torch.dtype) -> None:
        self.path, self.hp, self.dtype = directory / entry['file'], entry['hp'], dtype
        self.prefix = 'o64_' if dtype == torch.float64 else 'o32_'
        self.tolerance = (entry['tol64'] or 1e-12) if dtype == torch.float64 else entry['tol32']
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
        """An input in the precision under test; ``img_u8*`` become (u8 - 128) / 32, integers stay."""
        array = self.arrays[name]
        if name.startswith('img_u8'):
            return (torch.from_numpy(array).to(self.dtype) - 128) / 32
        tensor = torch.from_numpy(array)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

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

    def compare(self, actual: Tensor | np.ndarray | float, expected: np.ndarray, what: str, scale: float = 1.0) -> None:
        """Compare with ``expected`` by the fixtures' measure."""
        actual = (
            actual.detach().cpu().double().numpy() if isinstance(actual, Tensor) else np.asarray(actual, np.float64)
        )
        expected = np.asarray(expected, np.float64)
        assert actual.shape == expected.shape, f'{what}: shape {actual.shape}, expected {expected.shape}'
        difference = np.abs(actual - expected).max(initial=0) / max(1.0, np.abs(expected).max(initial=0))
        assert difference <= scale * self.tolerance, f'{what}: differs by {difference:.3g} > {self.tolerance:.3g}'


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
