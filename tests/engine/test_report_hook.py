"""What a run leaves behind."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from feature_toy import feature_runner
from PIL import Image
from rich.console import Console

from unmix.apis import build_runner, load_config
from unmix.engine.hooks import ReportHook
from unmix.engine.hooks.report_hook import group_metrics, results_table
from unmix.visualization import draw_views
from unmix.visualization.report import write_report

EVALUATOR = [dict(type='KNN', k=5), dict(type='LinearProbe'), dict(type='LinearProbe', labels_per_class=2)]


def report_runner(work_dir, **overrides):
    overrides = dict(custom_hooks=[dict(type='ReportHook', name='toy run')], test_evaluator=EVALUATOR) | overrides
    return feature_runner(work_dir, dict(controls=True), **overrides)


@pytest.mark.slow
def test_a_training_ends_with_table_results_curves_and_views(tmp_path, capsys):
    runner = report_runner(tmp_path)
    runner.train()
    metrics = runner.test()
    results = json.loads((tmp_path / 'results.json').read_text())
    for name in ('knn', 'linear', 'linear_2_per_class'):
        fields = {'top1': name, 'random_init_top1': f'random_init/{name}', 'raw_pixels_top1': f'raw_pixels/{name}'}
        assert results[name] == {
            field: pytest.approx(metrics[f'{key}/top1'], abs=1e-4) for field, key in fields.items()
        }
        assert 0 <= results[name]['top1'] <= 100
    assert (results['seed'], results['epochs'], results['threads']) == (3, 2, torch.get_num_threads())
    assert set(results['versions']) == {'unmix', 'python', 'torch', 'torchvision', 'mmengine', 'numpy'}
    assert results['versions']['torch'] == torch.__version__
    assert isinstance(results['config'], str)
    out = capsys.readouterr().out
    for text in ('raw pixels', 'random initialisation', 'toy run', 'kNN', 'linear', '2 labels a class'):
        assert text in out
    for picture in ('curves.png', 'views.png'):
        assert Image.open(tmp_path / picture).size > (100, 100)
    assert not list(tmp_path.glob('.*'))  # no temporary file is left


@pytest.mark.slow
def test_a_test_alone_reports_the_epochs_and_seed_of_the_checkpoint(tmp_path):
    runner = report_runner(tmp_path)
    runner.train()
    trained = runner.test()
    (tmp_path / 'results.json').unlink()
    runner = report_runner(tmp_path, load_from=str(tmp_path / 'epoch_2.pth'), randomness=dict(seed=77))
    tested = runner.test()
    results = json.loads((tmp_path / 'results.json').read_text())
    assert (results['epochs'], results['seed']) == (2, 3)
    assert tested['knn/top1'] == trained['knn/top1']


@pytest.mark.slow
def test_a_report_that_cannot_be_made_is_a_warning(tmp_path, monkeypatch):
    """Neither a broken matplotlib nor a file that cannot be written ends a run."""
    for module in ('matplotlib', 'matplotlib.figure'):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv('MPLBACKEND', 'nonsense')
    (tmp_path / 'results.json' / 'in the way').mkdir(parents=True)
    runner = report_runner(tmp_path)
    runner.train()
    assert runner.test()
    log = next(tmp_path.glob('*/*.log')).read_text()
    for name in ('views.png', 'curves.png'):
        assert log.count(f'{name} could not be made: ImportError: matplotlib cannot be imported') == 1
    assert log.count("unset MPLBACKEND='nonsense'") == 2
    assert log.count('results.json could not be made') == 1
    assert '<h2>Curves</h2>' in (tmp_path / 'report.html').read_text()


def test_without_metrics_nothing_is_reported(tmp_path):
    runner = report_runner(tmp_path)
    ReportHook().after_test_epoch(runner, metrics={})
    assert not (tmp_path / 'results.json').exists()


def test_metrics_are_grouped_and_laid_out():
    metrics = {'knn/top1': 98.123456, 'knn/top5': 99.0, 'random_init/knn/top1': 84.6, 'accuracy/top1': 50, 'auc': 1}
    results = group_metrics(metrics)
    assert results == {
        'knn': {'top1': 98.1235, 'top5': 99.0, 'random_init_top1': 84.6},
        'accuracy': {'top1': 50.0},
        'auc': {'value': 1.0},
    }
    text = io.StringIO()
    Console(file=text, width=120).print(results_table(group_metrics({**metrics, 'linear_10_per_class/top1': 7}), 'run'))
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in text.getvalue().splitlines() if '│' in line]
    assert rows == [['random initialisation', '84.6', '', '', ''], ['run', '98.1', '50.0', '', '7.0']]
    assert 'linear, 10 labels a class' in text.getvalue()


def test_of_many_metrics_each_has_a_row_and_of_a_classifier_the_best_epoch_a_column():
    metrics = {f'knn_{k}/{field}': k for k in range(5) for field in ('top1', 'best_top1')} | {
        'random_init/knn_1/top1': 9
    }
    text = io.StringIO()
    Console(file=text, width=120).print(results_table(group_metrics(metrics), 'run'))
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in text.getvalue().splitlines() if '│' in line]
    assert rows == [[f'knn_{k}', '9.0' if k == 1 else '', f'{k}.0', f'{k}.0'] for k in range(5)]


@pytest.mark.slow
def test_the_best_epoch_of_a_classifier_survives_a_resume(tmp_path):
    """The learning rate is so high that the accuracy goes up and down."""

    def train(epochs, **rest):
        cfg = load_config(
            'unmix::benchmarks/linear_resnet8_1xb128-coslr-20e_digits.py', {'train_cfg.max_epochs': epochs}
        )
        cfg.work_dir, cfg.launcher, cfg.experiment_name = str(tmp_path), 'none', f'best{epochs}'
        cfg.default_hooks.checkpoint.interval = 1
        cfg.param_scheduler = None
        cfg.update(rest)
        runner = build_runner(cfg)
        runner.train()
        runner.test()
        return runner, json.loads((tmp_path / 'results.json').read_text())

    history = train(2)[0].message_hub.log_scalars['val/accuracy_lr10/top1'].data[0].tolist()
    runner, results = train(4, resume=True, load_from=str(tmp_path / 'epoch_2.pth'))
    history = history[:2] + runner.message_hub.log_scalars['val/accuracy_lr10/top1'].data[0].tolist()[-2:]
    found = results['accuracy_lr10']
    assert found['top1'] == pytest.approx(history[-1], abs=1e-4)
    assert found['best_top1'] == pytest.approx(max(history), abs=1e-4)
    assert found['best_epoch'] == 1 + history.index(max(history))
    card = results['protocols']['linear_resnet8_1xb128-coslr-20e_digits.py']
    assert card['training']['epochs'] == 4
    assert card['training']['batch_size'] == 128
    assert card['checkpoint']['file'] == 'epoch_4.pth'
    assert card['random_init']['accuracy_lr10'] == results['accuracy_lr10']['random_init_top1']


def test_a_full_disk_leaves_the_old_files_and_gives_one_warning(tmp_path):
    """A limit on the size of files ends each writing in its middle, as a full disk or a quota does."""
    resource = pytest.importorskip('resource')
    (tmp_path / 'results.json').write_text('{"seed": 3}')
    before = write_report(tmp_path).read_bytes()
    draw_views([torch.rand(2, 3, 8, 8)], sheet := tmp_path / 'views.png')
    drawn = sheet.read_bytes()
    runner = SimpleNamespace(work_dir=str(tmp_path), logger=SimpleNamespace(warning=(said := []).append))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    hook = ReportHook()
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(len(before), len(drawn)) // 2, hard))
    try:
        for _ in range(2):
            hook._attempt(runner, 'report.html', lambda path: write_report(path.parent))
            hook._attempt(runner, 'views.png', lambda path: draw_views([torch.rand(2, 3, 8, 8)], path, title='new'))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [words.split(' could not be made: OSError')[0] for words in said] == ['report.html', 'views.png']
    assert (tmp_path / 'report.html').read_bytes() == before
    assert sheet.read_bytes() == drawn
    assert {path.name for path in tmp_path.iterdir()} == {'results.json', 'report.html', 'views.png'}
