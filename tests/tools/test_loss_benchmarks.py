"""The benchmarks of losses and PIC run, and the checks before the timing can fail; figures are not tested."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'tools/benchmarks'))
import loss
import measure
import pic

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('symmetric', [False, True])
def test_both_forms_of_the_loss_are_the_same(symmetric):
    forms = loss.moco(Namespace(seed=0, dim=8, batch=6, device='cpu'), 64, torch.float64, symmetric)
    loss.check('moco', forms)
    broken = forms | {'ours': lambda: [2 * x for x in forms['ours']()]}
    with pytest.raises(AssertionError, match='moco: Scalars are not close'):
        loss.check('moco', broken)


@pytest.mark.parametrize('disk', [False, True])
def test_pic_runs(tmp_path, monkeypatch, capsys, disk):
    file = tmp_path / 'goals.json'
    options = ['--rounds', '1', '--threads', '1', '--json', str(file), '--dim', '8', '--sizes', '600']
    options += ['--rows-dir', str(tmp_path / 'rows'), '--recent', '300'] * disk
    monkeypatch.setattr(sys, 'argv', ['pic.py', *options])
    threads = torch.get_num_threads()
    pic.main()
    torch.set_num_threads(threads)
    goals = {'pic_disk_flat'} if disk else {'pic_full_0k', 'pic_full_0k_memory'}
    assert json.loads(file.read_text())['goals'].keys() == goals
    assert 'to 1e-12' in capsys.readouterr().out


def test_extra_bytes_are_those_that_are_alive_at_a_time():
    x = torch.randn(100, 100)
    assert measure.extra_bytes(lambda: (x @ x).exp().sum()) == pytest.approx(80_000, abs=100)
    assert measure.extra_bytes(lambda: [(x + i).sum() for i in range(5)]) == pytest.approx(40_000, abs=200)
