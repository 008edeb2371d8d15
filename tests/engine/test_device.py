"""Precision of products, and the line about the device at the start of a training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toy import toy_runner
from mmengine.optim import OptimWrapper

from unmix.config import load_config
from unmix.engine.device import describe_use, set_matmul_precision
from unmix.engine.optimizers import AutocastOptimWrapper
from unmix.engine.sharding import ShardedStrategy

QUICKSTART = 'unmix::quickstart/unmix-moco_digits.py'


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before[1:]


@pytest.mark.parametrize(('value', 'tf32'), [('highest', False), ('high', True), ('medium', True)])
def test_what_the_key_sets(value: str, tf32: bool, tmp_path: Path) -> None:
    toy_runner(tmp_path, env_cfg__matmul_precision=value)
    assert torch.get_float32_matmul_precision() == value
    assert torch.backends.cudnn.allow_tf32 == tf32
    assert torch.backends.cuda.matmul.allow_tf32 == tf32


def test_without_the_key_pytorch_chooses(tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    toy_runner(tmp_path)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    assert 'matmul_precision' not in load_config(QUICKSTART).env_cfg


@pytest.mark.parametrize('value', ['tf32', 'HIGH', True, 1, ['high']])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"env_cfg\.matmul_precision is .*; it is one of 'highest', 'high', 'medium'"):
        load_config(QUICKSTART, {'env_cfg.matmul_precision': value})
    with pytest.raises(ValueError, match='it is one of'):
        set_matmul_precision(value)


def test_the_key_misspelt() -> None:
    with pytest.raises(ValueError, match='Did you mean matmul_precision'):
        load_config(QUICKSTART, {'env_cfg.matmul_precison': 'high'})


@pytest.mark.slow
def test_a_training_says_once_what_it_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_runner(tmp_path).train()
    assert [line.partition('INFO - ')[2] for line in capsys.readouterr().out.splitlines() if 'Device: ' in line] == [
        'Device: CPU, 1 process; float32; channels-last off; compile off; SGD fused; cudnn_benchmark off; prefetch off'
    ]


@pytest.mark.parametrize(('changes', 'part'), [
    (dict(env_cfg__matmul_precision='high'), 'float32 (products TF32 where the processor has it)'),
    (dict(env_cfg__matmul_precision='medium'), 'float32 (products bfloat16 where the processor has it)'),
    (dict(optim_wrapper__type='AutocastOptimWrapper'), 'bfloat16 autocast, else float32'),
    (dict(env_cfg__cudnn_benchmark=True), 'cudnn_benchmark on'),
    (dict(compile=True), 'compile on'),
    (dict(compile=dict(backend='eager')), 'compile on'),
    (dict(compile=False), 'compile off'),
    (dict(optim_wrapper__optimizer__fused=False), 'SGD not fused'),
])  # fmt: skip
def test_what_the_line_says(changes: dict[str, Any], part: str, tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, **changes)
    kind = AutocastOptimWrapper if 'optim_wrapper__type' in changes else OptimWrapper
    optimizer = torch.optim.SGD(runner.model.parameters(), 0.1, fused='optim_wrapper__optimizer__fused' not in changes)
    runner.optim_wrapper = kind(optimizer=optimizer)
    assert part in describe_use(runner, prefetch=False).split('; ')


@pytest.mark.parametrize(('value', 'text'), [(False, 'off'), (True, 'on'), (4, 'in 4 layers')])
def test_the_line_has_the_memory_format(value: bool | int, text: str, tmp_path: Path) -> None:
    backbone = dict(type='ResNet', depth=8, width=4, channels_last=value)
    head = dict(type='NTXentHead', temperature=0.5)
    runner = toy_runner(tmp_path, model=dict(type='SimCLR', backbone=backbone, head=head, _delete_=True))
    runner.optim_wrapper = OptimWrapper(optimizer=torch.optim.SGD(runner.model.parameters(), 0.1))
    assert f'channels-last {text}' in describe_use(runner, prefetch=True).split('; ')
    assert describe_use(runner, prefetch=True).endswith('prefetch on')


def test_strategies_set_the_precision_too() -> None:
    ShardedStrategy(env_kwargs=dict(launcher='none', randomness=dict(seed=0), matmul_precision='medium'))
    assert torch.get_float32_matmul_precision() == 'medium'
