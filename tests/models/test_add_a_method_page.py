"""The method of docs/add_a_method.md is SimSiam, and runs as it is printed there."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from algorithms_under_test import ALGORITHMS, METHODS
from pages import blocks
from torch import Tensor

from unmix.apis import build_runner, load_config
from unmix.models import SimCLR
from unmix.registry import MODELS
from unmix.testing.method import differing, sgd

ROOT = Path(__file__).parents[2]
PAGE = 'add_a_method.md'
FILES = ('simsiam_head.py', 'simsiam_digits.py', 'unmix-simsiam_digits.py')
SHRINK = {'train_dataloader.batch_size': 500, 'model.backbone.width': 4, 'model.neck.in_dim': 16}
SHRINK |= {'train_cfg.max_epochs': 1, 'train_cfg.val_begin': 2, 'test_cfg.controls': False}


def predict(model: SimCLR, z: Tensor) -> list[Tensor]:
    """The predictor, image by image; BatchNorm written out."""
    first, norm, _, last = model.head.predictor
    hidden = torch.stack([first.weight @ row for row in z])
    mean = sum(hidden) / len(z)
    variance = sum((row - mean) ** 2 for row in hidden) / len(z)
    rows = [norm.weight * (row - mean) / (variance + norm.eps).sqrt() + norm.bias for row in hidden]
    return [last.weight @ row.clamp(min=0) + last.bias for row in rows]


def simsiam(model: SimCLR, x0: Tensor, x1: Tensor) -> Tensor:
    """Algorithm 1 of the paper, image by image."""
    z0, z1 = (model.neck(model.backbone(x)) for x in (x0, x1))
    loss = torch.zeros((), dtype=torch.float64)
    for predictions, targets in ((predict(model, z0), z1.detach()), (predict(model, z1), z0.detach())):
        for p, z in zip(predictions, targets, strict=True):
            loss = loss - (p @ z) / (p.norm() * z.norm()) / 2
    return loss / len(x0)


@pytest.mark.parametrize('unmix', [None, dict(type='UnMix')], ids=['plain', 'unmix'])
def test_three_steps_are_those_of_the_paper(unmix: dict | None) -> None:
    """With Un-Mix the naive form calls the whole loss of SimSiam three times, and encodes the mixture twice."""
    model = MODELS.build(dict(ALGORITHMS['simsiam'], unmix=unmix)).double()
    naive = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3) for m in (model, naive)]
    mixtures = []
    if unmix:
        mix = model.unmix.mix
        model.unmix.mix = lambda view, rng: mixtures.append(mix(view, rng)) or mixtures[-1]
    for _ in range(3):
        x0, x1 = torch.randn(2, 6, 3, 8, 8, dtype=torch.float64)
        loss = sum(model.loss([x0, x1]).values())
        expected = simsiam(naive, x0, x1)
        if unmix:
            mixture, lam = mixtures[-1]
            expected = expected + lam * simsiam(naive, mixture, x1) + (1 - lam) * simsiam(naive, mixture.flip(0), x1)
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
        for optimizer, term in zip(optimizers, (loss, expected), strict=True):
            optimizer.zero_grad()
            term.backward()
            optimizer.step()
        model.after_step()
    for (key, ours), theirs in zip(model.named_parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10, msg=key)


@pytest.mark.slow
def test_test_file_of_the_page(tmp_path: Path) -> None:
    """It passes as printed, and fails once the head leaves its predictor unused."""
    for name in ('simsiam_head.py', 'test_simsiam.py'):
        (code,) = blocks(PAGE, name)
        (tmp_path / name).write_text(code)
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'test_simsiam.py']
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert '1 passed' in done.stdout
    head = (tmp_path / 'simsiam_head.py').read_text()
    (tmp_path / 'simsiam_head.py').write_text(head.replace('self.predictor(query)', 'query'))
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'BrokenPromise: every_parameter_learns (plain)' in done.stdout


def test_plain_loop_of_the_page() -> None:
    """Three steps of it move weights, queue and momentum encoder as those of the contract's own loop."""
    method = METHODS['moco-v2']
    models = [method.build(method.unmix) for _ in range(2)]
    optimizers = [sgd(model) for model in models]
    (code,) = blocks(PAGE, 'plain_loop.py')
    batches = [(method.views(), method.index)] * 3
    exec(code, dict(model=models[0], optimizer=optimizers[0], batches=batches))
    for _ in range(3):
        method.train(models[1], optimizers[1])
    assert int(models[0].head.queue.pointer) == 3 * 6 % 20
    assert not differing(models[0].state_dict(), models[1].state_dict())


@pytest.mark.slow
def test_files_of_the_page_train(tmp_path: Path) -> None:
    """Two steps: the twin, which needs all files, by the command of the page; the plain config in this process."""
    for name in FILES:
        (code,) = blocks(PAGE, name)
        (tmp_path / name).write_text(code)
    _, plain, twin = FILES
    options = [f'{key}={value}' for key, value in SHRINK.items()]
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), twin, '--cfg-options', *options]
    environment = os.environ | {'PYTHONPATH': f'.{os.pathsep}{ROOT}'}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert '│ SimSiam + Un-Mix ' in done.stdout
    state = torch.load(tmp_path / 'work_dirs' / Path(twin).stem / 'epoch_1.pth', weights_only=False)

    cfg = load_config(str(tmp_path / plain), SHRINK)
    cfg.work_dir, cfg.launcher = str(tmp_path / 'plain'), 'none'
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == state['message_hub']['runtime_info']['iter'] + 1 == 2
    assert runner.model.state_dict().keys() == state['state_dict'].keys()
    for scalars, terms in (
        (runner.message_hub.log_scalars, {'train/loss_base'}),
        (state['message_hub']['log_scalars'], {'train/loss_base', 'train/loss_unmix'}),
    ):
        assert {name for name in scalars if 'loss_' in name} == terms
    first = [
        scalars['train/loss_base'].data[0][0]
        for scalars in (runner.message_hub.log_scalars, state['message_hub']['log_scalars'])
    ]
    assert first[0] == first[1]
