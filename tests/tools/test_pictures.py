"""Tools that draw and tabulate."""

import csv
import json
import runpy
from pathlib import Path

import pytest
import torch
from engine_toy import toy_runner
from mmengine.hooks import Hook
from PIL import Image

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


class Rates(Hook):
    """Notes the rate of each training step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append(runner.optim_wrapper.param_groups[0]['lr'])


@pytest.mark.parametrize('schedule', [
    [dict(type='CosineLR', first_epoch=1)],
    [dict(type='CosineLR', by_epoch=True, convert_to_iter_based=True)],
    [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=4), dict(type='MultiStepLR', milestones=[2])],
])  # fmt: skip
def test_the_rates_drawn_are_those_of_a_training(schedule, tmp_path):
    learning_rates = runpy.run_path(str(TOOLS / 'visualizations' / 'vis_scheduler.py'))['learning_rates']
    runner = toy_runner(tmp_path, param_scheduler=schedule)
    rates = Rates()
    runner.register_hook(rates)
    runner.train()
    iterations = len(runner.train_dataloader)
    lr = runner.cfg.optim_wrapper.optimizer.lr
    assert learning_rates(lr, schedule, runner.max_epochs, iterations) == pytest.approx(rates.seen, rel=1e-12)


def start(tool, *arguments, monkeypatch):
    monkeypatch.setattr('sys.argv', [tool, *map(str, arguments)])
    with pytest.MonkeyPatch.context():
        runpy.run_path(str(TOOLS / tool), run_name='__main__')


def test_the_rate_is_drawn(tmp_path, monkeypatch, capsys):
    out = tmp_path / 'lr.png'
    name = 'moco/unmix-moco-sym_resnet18_1xb512-coslr-1000e_cifar10'
    start('visualizations/vis_scheduler.py', name, '--iterations', 3, '--out', out, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert '1000 epochs of 3 steps' in printed
    assert 'last     0 in step 3000' in printed  # the script counts epochs from 1, so the last rate is 0
    assert Image.open(out).size[0] > 500


@pytest.mark.slow
def test_a_data_set_is_drawn(tmp_path, monkeypatch, capsys):
    out = tmp_path / 'views.png'
    start(
        'visualizations/browse_dataset.py', 'quickstart/unmix-cmc_digits', '--out', out, '--images', 4,
        '--cfg-options', 'model.unmix.mixing.prob=0.5', monkeypatch=monkeypatch,
    )  # fmt: skip
    assert 'views.png: 4 images, 1 views, 4 mixtures' in capsys.readouterr().out
    picture = Image.open(out).convert('RGB')
    red, green, blue = (torch.frombuffer(bytearray(band.tobytes()), dtype=torch.uint8) for band in picture.split())
    assert ((red > 180) & (green > 150) & (blue < 140)).sum() > 1000  # yellow digits
    assert ((blue > 80) & (red < 60)).sum() > 1000  # on blue


def test_logs_are_two_tables(tmp_path, monkeypatch, capsys):
    logs = tmp_path / 'run' / '20260101_000000' / 'vis_data'
    logs.mkdir(parents=True)
    records = [dict(loss=2.0, lr=0.1, step=1), dict(loss=1.0, lr=0.05, step=2), {'knn/top1': 50.0, 'step': 1}]
    (logs / 'scalars.json').write_text(''.join(json.dumps(record) + '\n' for record in records))
    start('analysis_tools/analyze_logs.py', tmp_path / 'run', '--out', tmp_path / 'out', monkeypatch=monkeypatch)
    rows = list(csv.DictReader((tmp_path / 'out' / 'train.csv').open()))
    assert rows == [dict(step='1', loss='2.0', lr='0.1'), dict(step='2', loss='1.0', lr='0.05')]
    assert list(csv.DictReader((tmp_path / 'out' / 'validation.csv').open())) == [{'step': '1', 'knn/top1': '50.0'}]
    start('analysis_tools/analyze_logs.py', tmp_path / 'run', monkeypatch=monkeypatch)
    assert 'loss' in (printed := capsys.readouterr().out)
    assert 'last 1, 1 (step 2) to 2 (step 1)' in printed
    with pytest.raises(SystemExit):
        start('analysis_tools/analyze_logs.py', tmp_path, monkeypatch=monkeypatch)
    assert 'holds no run' in capsys.readouterr().err


@pytest.mark.slow
def test_features_are_drawn(tmp_path, monkeypatch, capsys):
    for number in range(8):
        path = tmp_path / 'images' / str(number % 2) / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (16, 16), 30 * number + 10).save(path)
    for tool, *words in (
        ('vis_embedding', 'moco_digits', tmp_path / 'images', '--method', 'pca'),
        ('vis_neighbours', 'moco_digits', tmp_path / 'images', '--queries', 3, '--neighbours', 2),
        ('vis_predictions', 'moco_digits', 'unmix-moco_digits', '--data', tmp_path / 'images', '--stage', 'backbone'),
    ):
        out = tmp_path / f'{tool}.png'
        start(f'visualizations/{tool}.py', *words, '--out', out, monkeypatch=monkeypatch)
        assert Image.open(out).size[0] > 200
    printed = capsys.readouterr().out
    assert '8 images' in printed
    assert '3 images, ' in printed
    assert printed.count('of the flat distribution') == 2
