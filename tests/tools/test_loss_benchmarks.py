"""The benchmarks of losses, PIC and memory run, and what they check holds; their figures are not looked at."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'tools/benchmarks'))
import loss
import memory
import peak
import pic
import pic_disk

from unmix.models import AlignUniformHead, InfoNCEHead, NCEHead, PICHead
from unmix.models.functional import bank_chunks

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('symmetric', [False, True])
def test_both_forms_of_the_loss_are_the_same(symmetric):
    forms = loss.moco(Namespace(seed=0, dim=8, batch=6), 64, torch.float64, symmetric)
    loss.check('moco', forms)
    broken = forms | {'ours': lambda: [2 * x for x in forms['ours']()]}
    with pytest.raises(AssertionError, match='moco: Scalars are not close'):
        loss.check('moco', broken)


def test_pic_runs(tmp_path, monkeypatch, capsys):
    file = tmp_path / 'goals.json'
    options = ['--rounds', '1', '--threads', '1', '--json', str(file), '--dim', '8', '--sizes', '600']
    monkeypatch.setattr(sys, 'argv', ['pic.py', *options])
    threads = torch.get_num_threads()
    pic.main()
    torch.set_num_threads(threads)
    assert json.loads(file.read_text())['goals'].keys() == {'pic_full_0k', 'pic_full_0k_memory'}
    assert 'to 1e-12' in capsys.readouterr().out


def test_pic_on_disk_runs_and_refuses_a_disk_without_room(tmp_path, monkeypatch, capsys):
    file, small = tmp_path / 'goals.json', ['--size', '9000', '--recent', '4096', '--dim', '8', '--batch', '8']
    options = [str(tmp_path), *small, '--rounds', '1', '--threads', '1', '--json', str(file)]
    monkeypatch.setattr(sys, 'argv', ['pic_disk.py', *options])
    threads = torch.get_num_threads()
    pic_disk.main()
    torch.set_num_threads(threads)
    found = json.loads(file.read_text())
    assert found['goals'].keys() == {
        f'pic_disk_{state}_{clock}' for state in ('cached', 'cold') for clock in ('cpu', 'wall')
    }
    assert found['sizes']['.rows'] == 2 * 9000 * 8 * 4
    assert [path.name for path in tmp_path.iterdir()] == ['goals.json']
    with pytest.raises(OSError, match=r'GiB free; the table of 100000000000 x 128 and a checkpoint of it take'):
        pic_disk.check_room(str(tmp_path), 10**11, 128)


def test_extra_bytes_are_those_that_are_alive_at_a_time():
    x = torch.randn(100, 100)
    assert peak.extra_bytes(lambda: (x @ x).exp().sum()) == pytest.approx(80_000, abs=100)
    assert peak.extra_bytes(lambda: [(x + i).sum() for i in range(5)]) == pytest.approx(40_000, abs=200)


@pytest.mark.parametrize('build', [
    lambda size: InfoNCEHead(128, size),
    lambda size: AlignUniformHead(128, size, contrast_weight=1.0),
    lambda size: NCEHead(size, 128, 4),
    lambda size: PICHead(size, 128, num_recent=512),
], ids=['info_nce', 'align_uniform', 'instdisc', 'pic_recent'])  # fmt: skip
def test_a_step_needs_no_more_with_a_larger_state(monkeypatch, build):
    monkeypatch.setitem(bank_chunks.CHUNK, 'cpu', 64)  # chunks smaller than either
    (small, few), (large, many) = (memory.measure(build, size, seed=0) for size in (1000, 4000))
    assert large > 1.3 * small
    # Whether a chunk is still alive when the next one begins is, to the profiler's clock, a matter of chance.
    table = (4000 - 1000) * memory.BATCH * 4  # bytes that one number for each row and sample would add
    assert abs(many - few) < table / 2


def test_a_step_of_pic_has_gradients_of_the_weights_but_no_logits(monkeypatch):
    monkeypatch.setitem(bank_chunks.CHUNK, 'cpu', 64)
    monkeypatch.setattr(memory, 'BATCH', 512)
    monkeypatch.setattr(memory, 'DIM', 8)
    (_, few), (_, many) = (memory.measure(lambda size: PICHead(size, 8), size, seed=0) for size in (1000, 4000))
    weights, logits = 3000 * 8 * 4, 3000 * 512 * 4  # bytes that 3000 more instances add to one tensor of each kind
    assert weights < many - few < logits / 8
