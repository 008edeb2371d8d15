"""docs/add_a_method.md: its blocks are the files of the package, or run as they are printed there."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from algorithms_under_test import METHODS
from pages import DOCS, blocks, load_module

from unmix.testing.method import differing, sgd

ROOT = Path(__file__).parents[2]
PAGE = 'add_a_method.md'
SHRINK = {'train_dataloader.batch_size': 500, 'model.backbone.width': 4, 'model.neck.in_dim': 16}
SHRINK |= {'train_cfg.max_epochs': 1, 'train_cfg.val_begin': 2, 'test_cfg.controls': False}
HEAD = 'unmix/models/heads/simsiam.py'


def test_the_page_prints_the_head_of_the_package() -> None:
    """And its configs: see tests/test_docs.py."""
    (code,) = blocks(PAGE, HEAD)
    assert code == (ROOT / HEAD).read_text()


def lines_of_code(path: Path) -> int:
    """Lines that are neither blank, nor a comment, nor of a docstring."""
    text, left_out = path.read_text(), set[int]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            left_out |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(number not in left_out and not line.strip().startswith('#') for number, line in lines if line.strip())


def test_heads_are_as_short_as_the_page_says() -> None:
    """The goal is 60 lines, of DINO 90."""
    section = (DOCS / PAGE).read_text().split('\n## How long a head is\n')[1].split('\n## ')[0]
    rows = [[cell.strip(' `') for cell in line.strip('|').split('|')] for line in section.splitlines() if '](' in line]
    assert rows
    for _, module, stated, *_ in rows:
        assert lines_of_code(ROOT / 'unmix' / 'models' / 'heads' / f'{module}.py') == int(stated), module
        assert int(stated) <= (90 if module == 'dino' else 60), module


@pytest.mark.slow
def test_test_file_of_the_page() -> None:
    """The contract holds for the head of the page, whose regulariser no mixture enters."""
    load_module(PAGE, 'my_head.py')
    load_module(PAGE, 'test_my_head.py').test_my_head()


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
    """Two steps, by the command of the page."""
    for name in ('my_head.py', 'my_digits.py'):
        (code,) = blocks(PAGE, name)
        (tmp_path / name).write_text(code)
    options = [f'{key}={value}' for key, value in SHRINK.items()]
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), 'my_digits.py', '--cfg-options', *options]
    environment = os.environ | {'PYTHONPATH': f'.{os.pathsep}{ROOT}'}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    state = torch.load(tmp_path / 'work_dirs' / 'my_digits' / 'epoch_1.pth', weights_only=False)
    assert state['message_hub']['runtime_info']['iter'] == 1
    terms = {name for name in state['message_hub']['log_scalars'] if 'loss_' in name}
    assert terms == {'train/loss_base', 'train/loss_regulariser', 'train/loss_unmix'}
