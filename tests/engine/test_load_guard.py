"""The guard in a real Runner: what it says about a checkpoint, and what it refuses."""

from pathlib import Path

import pytest
import torch
from engine_toy import toy_runner
from mmengine.runner import Runner


def load(path: Path, *names: str, **guard: bool) -> Runner:
    torch.save(dict(state_dict={name: torch.zeros(3, 6) for name in names}), path)
    runner = toy_runner(path.parent, load_from=str(path), custom_hooks=[dict(type='LoadGuardHook', **guard)])
    runner.load_or_resume()
    return runner


def test_it_refuses_a_part_and_says_how_to_take_it(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r'50% of the 2 tensors match; 1 missing: layer\.bias\..*LoadGuardHook\.strict'
    ):
        load(tmp_path / 'x.pth', 'layer.weight')


def test_it_says_how_much_matches(tmp_path: Path):
    runner = load(tmp_path / 'x.pth', 'layer.weight', 'other', strict=False)
    assert not runner.model.layer.weight.any()
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'the others stay as they are; 1 missing: layer.bias; 1 not in the model: other' in log
    assert f'{tmp_path / "x.pth"}: 50% of the 2 tensors of the model match' in log
