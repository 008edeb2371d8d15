"""The cache of features: damaged files are computed again, and said once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unmix.evaluation.feature_cache import FeatureCache


class Images:
    """Eight images whose features are themselves."""

    rows = torch.arange(24.0).view(8, 3)

    def __len__(self) -> int:
        return 8


def collect(folder: Path, read: list[int]) -> torch.Tensor:
    def batches():
        read.append(1)
        yield dict(inputs=Images.rows, index=torch.arange(8), label=torch.arange(8) % 2)

    encoders = {'a': lambda batch: batch['inputs'], 'b': lambda batch: batch['inputs'] * 2}
    found = FeatureCache(folder).collect(batches(), encoders, dict(a='a', b='b'), 'data', Images())
    return torch.cat([found[name].features for name in 'ab'])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(Images.rows.numpy().tobytes()[:32]) + 6] ^= 1
    path.write_bytes(data)


def unsealed(path: Path) -> None:
    torch.save(torch.load(path), path)


@pytest.mark.parametrize(
    'damage',
    [
        flip,
        unsealed,
        lambda path: path.write_bytes(path.read_bytes()[:300]),
        lambda path: path.write_bytes(b''),
    ],
    ids=['flipped bit', 'no seal', 'cut', 'empty'],
)
def test_damaged_features_are_computed_again(
    damage: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture
):
    read: list[int] = []
    first = collect(tmp_path, read)
    assert torch.equal(collect(tmp_path, read), first)
    assert len(read) == 1
    for path in tmp_path.glob('*.pt'):
        if damage is not flip or Images.rows.numpy().tobytes()[:32] in path.read_bytes():
            damage(path)
    capsys.readouterr()
    assert torch.equal(collect(tmp_path, read), first)
    assert len(read) == 2
    assert capsys.readouterr().out.count('are computed again') == 1
    assert torch.equal(collect(tmp_path, read), first)
    assert len(read) == 2
