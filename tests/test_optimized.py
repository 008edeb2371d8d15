"""Refusals under ``python -O``, which leaves assertions out, those of MMEngine too."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
import torch
import unmix
from mmengine.runner import CheckpointLoader
from unmix.apis.command import Options, argument_parser
from unmix.apis import build_runner
from unmix.config import load_config
from unmix.evaluation import KNN

assert False, 'assertions are on'
Q = 'unmix::quickstart/moco_digits'

class Touch:
    def __reduce__(self):
        return os.system, ('touch witness',)

torch.save({'state_dict': {}, 'meta': Touch()}, 'bad.pth')
open('bad.yaml', 'w').write('x: !!python/object/apply:os.system ["touch witness"]')
open('read_base.py', 'w').write('from mmengine.config import read_base\\nwith read_base():\\n    from . import x\\n')

def options(**changes):
    return {key.replace('__', '.'): value for key, value in changes.items()}

def words(*given):
    return argument_parser(None).parse_args([Q, '--cfg-options', *given])

def runner(**changes):
    cfg = load_config(Q, options(work_dir='run', **changes))
    return build_runner(cfg)

CASES = {
    'checkpoint': lambda: CheckpointLoader.load_checkpoint('bad.pth', 'cpu', None),
    'no checkpoint': lambda: CheckpointLoader.load_checkpoint('none.pth', 'cpu', None),
    'yaml': lambda: load_config('bad.yaml'),
    'read_base': lambda: load_config('read_base.py'),
    'brackets': lambda: words('a=[1'),
    'word': lambda: words('a'),
    'key': lambda: load_config(Q, options(model__momentun=1)),
    'type': lambda: load_config(Q, options(model__type='MoCoo')),
    'kind': lambda: load_config(Q, options(train_cfg=3)),
    'scaling': lambda: load_config(Q, options(auto_scale_lr__enable=True)),
    'backends': lambda: load_config(Q, options(visualizer__vis_backends='x')),
    'epochs': lambda: runner(train_cfg__max_epochs=0).train(),
    'queue': lambda: runner(model__head__queue_size=8).train(),
    'momentum': lambda: runner(model__momentum=3.0).train(),
    'temperature': lambda: runner(model__head__temperature=0.0).train(),
    'classes': lambda: KNN(k=0),
}
for name, case in CASES.items():
    try:
        case()
    except (ValueError, OSError, KeyError, TypeError) as error:
        print('refused', name, str(error)[:100])
    else:
        print('TAKEN', name)
print('witness', os.path.exists('witness'))
"""


@pytest.mark.slow
def test_bad_input_is_refused_under_python_o(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, '-O', '-c', SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(('refused', 'TAKEN', 'witness'))]
    assert [line for line in lines if line.startswith('TAKEN')] == []
    assert len(lines) == 17
    assert lines[-1] == 'witness False'
