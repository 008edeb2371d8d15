"""Real trainings of every method, killed by SIGKILL and resumed; and whether the comparison would notice."""

import importlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

MISC = Path(__file__).resolve().parents[2] / 'tools' / 'misc'


@pytest.fixture
def tools(monkeypatch):
    """The two tools as modules."""
    monkeypatch.syspath_prepend(str(MISC))
    return [importlib.import_module(name) for name in ('check_resume', 'compare_checkpoints')]


# State of each kind: queue and momentum encoder, bank, rows, prototypes, clusters, centre. The contract resumes all
# methods, in one process.
METHODS = ('moco', 'instdisc', 'pic', 'swav', 'deepclusterv2', 'dino')


@pytest.mark.slow
def test_methods_go_on_where_they_were_killed():
    """All methods are for ``check_resume.py --all --cover``, and the whole matrix for ``--all``."""
    configs = MISC.parents[1] / 'configs' / 'quickstart'
    names = [str(configs / f'{twin}{method}_digits.py') for method in METHODS for twin in ('', 'unmix-')]
    command = [sys.executable, str(MISC / 'check_resume.py'), *names, '--cover']
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    assert f'RESUME {len(METHODS)} of {len(METHODS)} equal' in result.stdout.splitlines()[-1]


def test_the_subset_covers_methods_options_and_their_pairs(tools):
    check_resume, _ = tools
    names = [path.stem for path in MISC.parents[1].glob('configs/quickstart/*_digits.py')]
    cases = check_resume.covering(check_resume.all_cases(sorted(names)), seed=0)
    assert {name.removeprefix('unmix-') for name in names} == {case.config.removeprefix('unmix-') for case in cases}
    rows = [(case.config.startswith('unmix-'), *case[1:]) for case in cases]
    for a, b in itertools.combinations(range(4), 2):
        assert len({(row[a], row[b]) for row in rows}) == 4


def checkpoint(**scalars):
    """What a Runner saves, in small."""
    histories = {'train/loss': HistoryBuffer([1.0, float('nan')], [1, 1]), 'train/time': HistoryBuffer([0.1], [1])}
    return dict(
        meta=dict(iter=2, time='now'),
        state_dict=dict(weight=torch.tensor([1.0, 2.0])),
        optimizer=dict(state={0: dict(momentum_buffer=torch.zeros(2))}, param_groups=[dict(lr=0.1)]),
        message_hub=dict(log_scalars=histories, runtime_info=dict(eta=3, best_score=5.0) | scalars),
    )


def test_differences_are_named(tools, tmp_path, monkeypatch, capsys):
    _, compare = tools
    ours, theirs = checkpoint(), checkpoint(more=1)
    theirs['meta']['time'], theirs['message_hub']['runtime_info']['eta'] = 'later', 4
    theirs['state_dict']['weight'] = torch.tensor([1.0, 2.0]).nextafter(torch.tensor(3.0))
    theirs['optimizer']['param_groups'][0]['lr'] = 0.2
    theirs['message_hub']['log_scalars']['train/loss'].update(2.0)
    theirs['message_hub']['log_scalars']['train/time'].update(2.0)
    paths = [str(tmp_path / name) for name in ('ours.pth', 'theirs.pth')]
    for values, path in zip((ours, theirs), paths, strict=True):
        torch.save(values, path)
    expected = [
        'message_hub.log_scalars.train/loss.counts.2',
        'message_hub.log_scalars.train/loss.values.2',
        'message_hub.runtime_info.more',
        'optimizer.param_groups.0.lr',
        'state_dict.weight',
    ]
    assert compare.differences(*map(compare.state, paths)) == expected
    assert compare.differences(compare.state(paths[0]), compare.state(paths[0])) == []
    for first, status in ((paths[0], 0), (paths[1], 1)):
        monkeypatch.setattr(sys, 'argv', ['compare_checkpoints.py', first, paths[0]])
        with pytest.raises(SystemExit) as stop:
            compare.main()
        assert stop.value.code == status
    assert capsys.readouterr().out.splitlines()[1:-1] == expected
