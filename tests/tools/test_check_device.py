"""The check of a device runs on a CPU, and its cases can fail."""

import importlib
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope

from unmix.models import BaseAlgorithm

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'misc' / 'check_device.py'


@pytest.fixture
def modules(monkeypatch):
    """The parts of the tool."""
    monkeypatch.syspath_prepend(str(TOOL.parent))
    monkeypatch.setattr(sys, 'path', list(sys.path))
    return [importlib.import_module(name) for name in ('device_cases', 'device_training', 'check_device')]


def run(tmp_path, *arguments):
    command = [sys.executable, str(TOOL), *arguments, '--json', 'found.json']
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)


@pytest.mark.slow
def test_a_part_of_it_runs_on_a_cpu(tmp_path):
    sections = ['agreement', 'training', 'waits', 'nccl', 'losses']
    options = ['--device', 'cpu', '--quick', '--filter', 'moco|all|collectives|MoCo', '--sections', *sections]
    result = run(tmp_path, *options)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    report = json.loads((tmp_path / 'found.json').read_text())
    statuses = {(row['section'], row['name']): row['status'] for row in report['results']}
    assert statuses['agreement', 'unmix-moco'] == statuses['training', 'moco bf16'] == 'PASS'
    assert statuses['nccl', 'collectives of one process'] == statuses['losses', 'MoCo, K=65,536'] == 'PASS'
    assert statuses['waits', 'all methods'] == 'SKIP'
    last = result.stdout.strip().splitlines()[-1]
    assert last.startswith(f'DEVICE {len(statuses) - 1} PASS, 0 FAIL, 1 SKIP, ')


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--device', 'cpu', '--filter', 'nothing'], "--filter is 'nothing', which no case of"),
    pytest.param(['--device', 'cuda'], "--device is 'cuda', but PyTorch finds no accelerator. --device cpu needs none.",
                 marks=pytest.mark.skipif(torch.cuda.is_available(), reason='there is an accelerator')),
])  # fmt: skip
def test_errors_are_one_message(modules, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['check_device.py', *arguments])
    with pytest.raises(ValueError, match='^' + message):
        modules[2].main()


def test_agreement_finds_another_state(modules):
    """The largest difference counts, relative to the largest number of its tensor; NaN is no agreement."""
    training = modules[1]
    one = dict(a=torch.tensor([4.0, 1.0]), b=torch.tensor(0.5))
    assert training.furthest(one, one) == 0
    assert training.furthest(dict(one, a=torch.tensor([4.0, 1.4])), one) == pytest.approx(0.1)
    assert training.furthest(dict(one, b=torch.tensor(0.7)), one) == pytest.approx(0.2)
    assert not training.furthest(dict(one, b=torch.tensor(float('nan'))), one) <= 1
    with pytest.raises(ValueError, match='on one side only'):
        training.furthest(dict(a=one['a']), one)


@pytest.mark.slow
def test_a_draw_that_differs_by_device_is_found(modules, monkeypatch):
    """As a model would that draws by the device's generator."""
    cases, training, _ = modules
    seeds, draw = itertools.count(), BaseAlgorithm.generator
    init_default_scope('unmix')
    options = cases.Options('cpu', True)
    assert training.agreement('unmix-simclr', options).status == 'PASS'
    monkeypatch.setattr(BaseAlgorithm, 'generator', lambda self, *key: draw(self, *key, next(seeds)))
    assert training.agreement('unmix-simclr', options).status == 'FAIL'


@pytest.mark.slow
def test_steps_of_a_recipe(modules, monkeypatch):
    """They have the recipe's sizes; a loss that is not finite fails."""
    recipes = importlib.import_module('device_recipes')
    init_default_scope('unmix')
    name, options = 'quickstart/unmix-moco_digits', modules[0].Options('cpu', True)
    assert name in {case.name for case in recipes.recipe_cases(options._replace(quick=False))}
    outcome = recipes.steps(name, options)
    assert (outcome.status, outcome.details['batch']) == ('PASS', 4)
    monkeypatch.setattr(recipes, 'make_batch', lambda *args: make_nan(recipe_batches.make_batch(*args)))
    recipe_batches = importlib.import_module('recipe_batches')
    assert recipes.steps(name, options).status == 'FAIL'


def make_nan(batch):
    return dict(batch, inputs=[view.float() * float('nan') for view in batch['inputs']])


@pytest.mark.slow
def test_a_case_that_hangs_or_dies_costs_itself_only(modules, monkeypatch, tmp_path):
    """The others of its section are run; what ran out of time fails, and what is left of its section is skipped."""
    cases, _, check = modules
    names = ['raises', 'dies', 'works', 'hangs', 'late']
    table = [cases.Case('golden', name, None) for name in names] + [cases.Case('nccl', 'next', None)]
    monkeypatch.setattr(check, 'SECTIONS', dict(golden=2, nccl=2))
    monkeypatch.setattr(check, 'work', scripted)
    monkeypatch.setattr(check, 'get_context', lambda _: multiprocessing.get_context('fork'))  # starts at once
    rows = list(check.check(table, cases.Options('cpu', True), str(tmp_path / 'log'), time.monotonic() + 60))
    assert [(row.name, row.status) for row in rows] == [
        ('raises', 'FAIL'), ('dies', 'FAIL'), ('works', 'PASS'), ('hangs', 'FAIL'), ('late', 'SKIP'), ('next', 'PASS'),
    ]  # fmt: skip
    assert 'status 7' in rows[1].value
    assert 'time of its section' in rows[3].value


def scripted(names, options, log, connection):
    """Stands in for the worker."""
    os.setsid()
    row = sys.modules['check_device'].Row
    for section, name in names:
        connection.send((section, name))
        if name == 'dies':
            os._exit(7)
        if name == 'hangs':
            time.sleep(60)
        connection.send(row('FAIL' if name == 'raises' else 'PASS', section, name, 0.0, '', {}))
    connection.close()
