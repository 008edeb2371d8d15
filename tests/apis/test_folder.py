"""``unmix train --data DIR``: a plan, a training, and what its features can be used for."""

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torchvision
from mmengine.runner import CheckpointLoader
from PIL import Image

from unmix.apis import folder, load_config
from unmix.cli import main
from unmix.converters.libraries import missing
from unmix.engine import pace
from unmix.registry import MODELS

TRAIN = Path(__file__).parents[2] / 'tools' / 'train.py'
SMALL = ['--cfg-options', 'train_cfg.max_epochs=2', 'num_threads=1', 'train_dataloader.num_workers=0']


def make(root: Path, classes: int = 2, images: int = 20) -> Path:
    """Noise in two colours: images of 40 to 59 x 48 px."""
    rng = np.random.default_rng(0)
    for c in range(classes):
        place = root / f'class{c}' if classes > 1 else root
        place.mkdir(parents=True, exist_ok=True)
        for i in range(images):
            pixels = rng.integers(0, 128, (48, 40 + i, 3)) + np.array([127 * c, 60, 127 - 127 * c])
            Image.fromarray(pixels.astype(np.uint8)).save(place / f'{i}.png')
    return root


@pytest.fixture(autouse=True)
def _few_measured_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, 'SECONDS', 0.0)


@pytest.fixture
def known_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, 'measure_pace', lambda cfg: (20.0, 3))


def run(*arguments: Any) -> None:
    main(['train', *map(str, arguments)])


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = CheckpointLoader.load_checkpoint(str(checkpoint), logger='silent')['state_dict']
    return state


class Trained(NamedTuple):
    data: Path
    out: Path
    printed: str


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A training on labelled images."""
    root = tmp_path_factory.mktemp('trained')
    data, out, printed = make(root / 'images'), root / 'out', io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(pace, 'SECONDS', 0.0)
        run('--data', data, '--out', out, '--resume', '--minutes', 2, *SMALL)  # nothing is there yet: it begins
    return Trained(data, out, printed.getvalue())


@pytest.mark.slow
@pytest.mark.usefixtures('known_pace')
@pytest.mark.parametrize('form', ['--data', 'recipe and --data', 'recipe and data_root'])
def test_the_plan_is_printed(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make(tmp_path / 'images'), tmp_path / 'out'
    arguments: list[Any] = {
        '--data': ['--data', data],
        'recipe and --data': ['unmix-moco_folder', '--data', data],
        'recipe and data_root': ['unmix-moco_folder', '--cfg-options', f'data_root={data}'],
    }[form]
    run(*arguments, '--out', out, '--minutes', 5, '--dry-run')
    printed = capsys.readouterr().out
    assert '40 images, 2 classes' in printed
    assert re.search(r'32 images, 4 steps an epoch, no image left out; \d+ epochs', printed)
    assert 'measured on 3 steps of batch 8' in printed
    for key in ('train_dataloader.batch_size', '--minutes, train_cfg.max_epochs', '--backbone, model.backbone.depth'):
        assert key in printed
    assert f"type='{'SimCLR' if form == '--data' else 'MoCo'}'" in printed
    assert not out.exists()


@pytest.mark.usefixtures('known_pace')
@pytest.mark.parametrize(('arguments', 'message'), [
    (['--data', 'lost'], 'there is no folder'),
    (['--data', 'images', '--method', 'simcrl'], "--method is 'simcrl'. Did you mean simclr or vicreg?"),
    (['--data', 'images', '--minutes', '0'], '--minutes is 0; expected a time above 0'),
    (['moco_digits', '--data', 'images'], '--data goes with --method, or with the recipe of a folder'),
    (['moco_digits', '--method', 'byol', '--minutes', '3'], '--method and --minutes: only for a training on a folder'),
    (['byol_folder', '--data', 'images', '--method', 'moco'], 'byol_folder is the recipe of byol'),
    (['--data', 'images', '--resume', 'lost.pth'], 'holds no config of a run on a folder'),
    (['--data', 'images', '--resume', 'lost.pth', '--minutes', '3'], '--resume goes on with the plan of the run'),
    (['--data', 'three'], 'three has 3 images to train on, too few for a batch'),
])  # fmt: skip
def test_errors_are_one_message(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    make(tmp_path / 'images')
    make(tmp_path / 'three', 1, 3)
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert message in error
    assert 'Traceback' not in error
    assert not Path('work_dirs').exists()


@pytest.mark.slow
def test_a_training(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With labels: a table, commands that work, a config that evaluates, and a work dir that is not used twice."""
    data, out, printed = trained
    assert 'random initialisation' in printed
    assert 'Health of the features: effective rank' in printed
    results = json.loads((out / 'results.json').read_text())
    assert {'top1', 'random_init_top1', 'raw_pixels_top1'} <= results['knn'].keys()
    commands = re.findall(r'^  unmix (\w+) (.*)$', printed, re.MULTILINE)
    assert [name for name, _ in commands] == ['features', 'export']
    for name, words in commands:
        moved = words.replace('features.npz', f'{tmp_path}/f.npz')
        main([name, *moved.split(), *(['--out', f'{tmp_path}/r.pth'] if name == 'export' else [])])
    assert np.load(tmp_path / 'f.npz')['features'].shape == (40, 512)
    assert (tmp_path / 'r.pth').is_file()

    (config,) = out.glob('*_folder.py')
    main(['test', str(config), str(out / 'epoch_2.pth')])
    assert json.loads((out / 'results.json').read_text())['knn']['top1'] == results['knn']['top1']

    with pytest.raises(SystemExit):
        run('--data', data, '--out', out, '--minutes', 2, *SMALL)
    assert f'A run was begun in {out} before' in capsys.readouterr().err
    run('--data', data, '--out', out, '--resume')
    assert 'Nothing is left to train' in ''.join(path.read_text() for path in out.glob('*/*.log'))
    moved = Path(shutil.copytree(data, tmp_path / 'moved'))
    capsys.readouterr()
    run('--data', moved, '--out', out, '--resume')
    assert f'unmix features {out} {moved} --out' in capsys.readouterr().out  # all data sets are those there
    latest = max(out.glob('*/*.log'), key=lambda path: path.stat().st_mtime).read_text()
    assert 'The training data set has changed' not in latest
    run('--data', data, '--out', out, '--overwrite', '--minutes', 2, *SMALL)
    assert len(list(out.glob('*_folder.py'))) == 1


@pytest.mark.slow
@pytest.mark.parametrize('library', ['torchvision', 'timm'])
def test_the_network_of_a_training_in_other_libraries(library: str, trained: Trained, tmp_path: Path) -> None:
    """The features of a library's own resnet18, with the weights that the printed command writes for it."""
    if reason := missing(library):
        pytest.skip(reason)
    checkpoint, target = trained.out / 'epoch_2.pth', tmp_path / 'resnet18.pth'
    main(['convert', 'unmix', str(checkpoint), str(target), '--to', library, '--backbone-only'])
    if library == 'timm':
        network = importlib.import_module('timm').create_model('resnet18', num_classes=0)
    else:
        network = torchvision.models.resnet18()
        network.fc = torch.nn.Identity()
    network.load_state_dict(torch.load(target, weights_only=True), strict=True)
    (config,) = trained.out.glob('*_folder.py')
    own = MODELS.build(load_config(str(config)).model.backbone)
    state = CheckpointLoader.load_checkpoint(str(checkpoint))['state_dict']
    own.load_state_dict(
        {name.removeprefix('backbone.'): value for name, value in state.items() if name.startswith('backbone.')}
    )
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(images), own.eval()(images), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_training_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make(tmp_path / 'images', 1, 20), tmp_path / 'out'
    (data / '0.png').write_text('no image')
    run('--data', data, '--out', out, '--method', 'simclr', '--mixture', 'none', '--minutes', 2, *SMALL)
    printed = capsys.readouterr().out
    assert 'no labels' in printed
    assert '1 of the images looked at cannot be read: 0.png' in printed
    assert 'no sign of a collapse' in printed or 'signs of a collapse' in printed
    (words,) = re.findall(r'^  unmix features (.*) --out features.npz$', printed, re.MULTILINE)
    (data / '0.png').unlink()
    main(['features', *words.split(), '--out', str(tmp_path / 'f.npz')])
    assert np.load(tmp_path / 'f.npz')['features'].shape == (19, 512)
    cfg = load_config(str(out / 'simclr_folder.py'))
    assert cfg.model.get('unmix') is None
    assert 'knn' not in json.loads((out / 'results.json').read_text())  # it has the skipped images


@pytest.mark.slow
def test_a_training_that_starts_from_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are one more control, and are compared by RankMe and neighbours; the work dir has all it needs."""
    data, out, start = make(tmp_path / 'images'), tmp_path / 'out', tmp_path / 'a.pth'
    torch.save(torchvision.models.resnet18().state_dict(), start)
    run('--data', data, '--from', start, '--out', out, '--minutes', 2, *SMALL)
    printed = capsys.readouterr().out
    assert f'proved: backbone here, and {start}' in printed.replace('\n', '')
    start.unlink()
    results = json.loads((out / 'results.json').read_text())
    assert results['knn'].keys() == {'top1', 'random_init_top1', 'raw_pixels_top1', 'start_top1'}
    assert 'weights at the start' in printed
    ranks = json.loads((out / 'start.json').read_text())
    assert ranks['effective_rank'].keys() == {'random_init', 'start', 'trained'}
    assert (out / 'neighbours_start.png').is_file()
    main(['test', str(out)])
    assert json.loads((out / 'results.json').read_text())['knn'] == results['knn']
    run('--data', data, '--out', out, '--resume')
    with pytest.raises(SystemExit):
        run('--data', data, '--out', out, '--resume', '--from', out)
    assert 'leave out --from' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures('known_pace')
@pytest.mark.parametrize('method', [method for method in folder.METHODS if method != 'simclr'])
def test_every_method_trains(method: str, tmp_path: Path) -> None:
    data, out = make(tmp_path / 'images', 1, 24), tmp_path / 'out'
    run('--data', data, '--out', out, '--method', method, '--minutes', 2, *SMALL, 'train_cfg.max_epochs=1')
    assert (out / 'epoch_1.pth').is_file()


@pytest.mark.slow
@pytest.mark.ranks
def test_two_processes_follow_one_plan(tmp_path: Path) -> None:
    """The first one measures and plans; both train on batches of half the size, with one learning rate.

    Both start from the given weights: the first one writes them, and both wait for them.
    """
    data, out, start = make(tmp_path / 'images', 1, 48), tmp_path / 'out', tmp_path / 'a.pth'
    torch.save(torchvision.models.resnet18().state_dict(), start)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', str(TRAIN)]
    command += ['--data', str(data), '--out', str(out), '--launcher', 'pytorch', '--method', 'moco', '--minutes', '3']
    command += ['--from', str(start)]
    environment = os.environ | {'PYTHONPATH': str(TRAIN.parents[1])}
    done = subprocess.run([*command, *SMALL], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout
    assert printed.count('steps of one process of batch 4') == 1
    cfg = load_config(str(out / 'unmix-moco_folder.py'))
    assert cfg.train_dataloader.batch_size == 4
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.06 * 8 / 128 / 10)  # a tenth, from weights
    assert printed.count('proved: backbone here') == 1
    ranks = json.loads((out / 'start.json').read_text())
    assert ranks['effective_rank'].keys() == {'random_init', 'start', 'trained'}
