"""The benchmark of the data loader runs, and says what to change; figures are not tested."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import dataloader
import get_flops as flops
import pytest
import torch
from algorithms_under_test import ALGORITHMS
from mmengine.config import Config
from torch.utils.data import DataLoader

from unmix.config import load_config
from unmix.datasets import ArrayDataset, ImageFolder, collate

CROP = [dict(type='RandomResizedCrop', size=8)]


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / 'loader.json'
    monkeypatch.setattr(sys, 'argv', ['dataloader.py', *arguments, '--seconds', '0', '--json', str(file)])
    dataloader.main()
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['auto', 'torch', 'pil'])
def test_files_by_each_backend(monkeypatch, tmp_path, capsys, backend):
    options = ['--cfg-options', f'train_dataloader.dataset.pipeline.backend={backend}', 'train_dataloader.batch_size=4']
    arguments = ['--photographs', '8', '--workers', '0', '1', '--threads', '2', '--step-ms', '1']
    found = run(monkeypatch, tmp_path, 'swav/swav_resnet50_4xb64-mcrop-coslr-400e_in1k', *arguments, *options)
    stages = found['stages']
    assert set(stages) == {'decode', 'views', 'rest'}
    assert stages['decode']['cpu'] > 0
    assert stages['views']['cpu'] > 0
    assert set(found['workers']) == {'0', '1'}
    assert all(row['images_per_second'] > 0 and row['all_mb'] > row['worker_mb'] for row in found['workers'].values())
    assert found['workers']['1']['worker_mb'] > 1
    assert found['threads']['2']['images_per_second'] > 0
    assert found['goals']['loader_first_batch']['value'] == found['first']['wall'] > 0
    assert found['taken'] == 4000
    assert 0 < found['step']['share'] < 1
    assert not found['goals']['loader_feeds']['met']
    assert 'GOAL loader_feeds' in capsys.readouterr().out


@pytest.mark.slow
def test_steps_of_a_model(monkeypatch, tmp_path):
    found = run(monkeypatch, tmp_path, 'quickstart/unmix-moco_digits', '--workers', '0', '--steps', '2')
    assert 0 <= found['step']['share'] < 1
    assert found['taken'] == pytest.approx(1e3 * 128 / found['step']['step_ms'])
    assert 'views' in found['stages']


@pytest.mark.slow
def test_a_model_that_needs_more_than_steps():
    model = dict(ALGORITHMS['deepclusterv2'])
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    with pytest.raises(ValueError, match=r'takes no step here .*no clusters yet.* Give the time of a step: --step-ms'):
        dataloader.waiting(loader_of(), Config(dict(model=model, optim_wrapper=wrapper)), 'cpu', 1)


def test_threads_make_the_batches_of_the_loader_in_order():
    loader = loader_of()
    for batch, expected in zip(dataloader.Threads(loader, 2), loader, strict=True):
        assert torch.equal(batch['index'], expected['index'])
        assert all(map(torch.equal, batch['inputs'], expected['inputs']))


def loader_of(backend: str = 'auto', **kwargs: Any) -> DataLoader[Any]:
    pipeline = dict(type='MultiView', transforms=CROP, backend=backend)
    images = torch.zeros(4, 3, 9, 9, dtype=torch.uint8)
    return DataLoader(ArrayDataset(images, None, pipeline), 2, collate_fn=collate, **kwargs)


def rates(**images: float) -> dict[int, dict[str, float]]:
    return {int(key[1:]): dict(images_per_second=value, cpu_ms=2.0) for key, value in images.items()}


@pytest.mark.parametrize(('rows', 'taken', 'now', 'expected'), [
    (rates(w0=50, w2=120, w4=200), 100, 4, 'num_workers=2 is enough (now 4).'),
    (rates(w0=50, w2=120, w4=200), 100, 2, 'nothing'),
    (rates(w0=50, w2=120, w4=200), None, 2, 'num_workers=4 is the fastest (now 2).'),
    (rates(w0=50, w2=120), 1000, 2, 'num_workers=2 makes most. 1100 images a second need 2.2 free cores'),
])  # fmt: skip
def test_advice_on_workers(rows, taken, now, expected):
    (change,) = dataloader.advice(loader_of(), now, {}, rows, taken, 'cpu')
    assert expected in change


def test_advice_for_few_cores_follows():
    found = dataloader.advice(loader_of(pin_memory=True), 2, {}, rates(w2=120), 1000, 'cuda')
    assert any("dataset.pipeline.backend='torch'" in change for change in found)
    found = dataloader.advice(loader_of('torch'), 2, {}, rates(w2=120), 1000, 'cuda')
    assert not any('backend' in change for change in found)
    assert any('pin_memory=False' in change for change in found)
    assert any(
        'not made by numba' in change for change in dataloader.advice(loader_of('pil'), 0, {}, rates(w0=9), 1, 'cpu')
    )


@pytest.mark.slow
def test_advice_on_files(tmp_path, monkeypatch):
    from PIL import Image

    for number in range(2):
        Image.new('RGB', (40, 30)).save(tmp_path / f'{number}.jpg')
    pipeline = dict(type='MultiView', transforms=CROP)
    loader = DataLoader(ImageFolder(tmp_path, pipeline=pipeline), 2)
    costs = dict(decode=dict(cpu=1.0, wall=4.0), views=dict(cpu=1.0, wall=1.1))
    found = dataloader.advice(loader, 0, costs, rates(w0=9), 1, 'cpu')
    assert [change.split(':')[0] for change in found] == [
        'Files are waited for',
        'train_dataloader.dataset.decode_size=16',
    ]
    monkeypatch.setattr(dataloader, 'find_spec', lambda name: None)
    busy = dict(decode=dict(cpu=1.0, wall=4.0), views=dict(cpu=1.0, wall=4.0))  # other processes delay both
    small = DataLoader(ImageFolder(tmp_path, pipeline=pipeline, decode_size=16), 2)
    (change,) = dataloader.advice(small, 0, busy, rates(w0=9), 1, 'cpu')
    assert change.startswith('pip install simplejpeg')


@pytest.mark.slow
def test_operations_of_a_step():
    """ResNet-50 at 224 px: 4.1 billion products forward, thrice that with its gradients; and MoCo's second encoder."""
    forward = 2 * 4.09e9
    cost = flops.cost_of_a_step(load_config('unmix::moco/mocov2_resnet50_8xb32-coslr-200e_in1k'))
    assert (cost.encodings, cost.momentum_encodings) == (1, 1)
    encoder = (
        23_508_032 + 2048 * 2048 + 2048 + 2048 * 128 + 128
    )  # ResNet-50 without its classifier, MoCo v2's projector
    assert (cost.trained, cost.parameters) == (encoder, 2 * encoder)
    found = cost.flops
    first = 2 * 64 * 3 * 49 * 112**2  # of the images there is no gradient
    assert math.isclose(found, 4 * forward - first, rel_tol=0.02)


@pytest.mark.slow
def test_each_kind_of_recipe_is_counted(monkeypatch, capsys):
    names = ['pic/unmix-pic-recent_resnet50_4xb64-mcrop-coslr-1955e_in1k', 'quickstart/unmix-moco_digits']
    monkeypatch.setattr(sys, 'argv', ['get_flops.py', *names])
    flops.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == names
    assert all(float(line.split()[0]) > 0 for line in lines[1:])


@pytest.mark.slow
def test_forms_of_unmix_are_counted(monkeypatch, capsys):
    """Half of the mixtures, or all at half of the steps, cost half of what all add; in the place of a query nothing."""
    monkeypatch.setattr(
        sys, 'argv', ['get_flops.py', '--forms', 'moco/unmix-moco-sym_resnet18_1xb512-coslr-1000e_cifar10']
    )
    flops.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    *rows, dropped = rows
    assert dropped[0] == '-'  # refused: no ViT
    assert 'model.unmix.patch_drop' in ' '.join(dropped)
    plain, whole, once, second, replace, small = (float(row[0]) for row in rows)
    assert once == second == pytest.approx((plain + whole) / 2, abs=2e-3)
    assert replace == pytest.approx(plain, abs=2e-3)
    assert plain < small < once
    assert [(row[4], row[6]) for row in rows[:3]] == [('2', '2'), ('3', '2'), ('2.5', '2')]
