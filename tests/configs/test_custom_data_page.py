"""The configs and the class of docs/custom_data.md run as they are printed there."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import blocks
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHRINK = ['train_dataloader.batch_size=8', 'model.backbone.width=8', 'model.neck.in_dim=64', 'train_cfg.max_epochs=1']
SHRINK += ['model.head.queue_size=16', 'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']


def train(folder: Path, config: str) -> str:
    (folder / 'my_config.py').write_text(config)
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), 'my_config.py', '--cfg-options', *SHRINK]
    environment = os.environ | {'PYTHONPATH': f'.{os.pathsep}{ROOT}'}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (folder / 'work_dirs' / 'my_config' / 'epoch_1.pth').is_file()
    return done.stdout


@pytest.mark.parametrize('kind', ['labelled folders', 'data set class'])
def test_page(kind: str, tmp_path: Path) -> None:
    labelled, unlabelled = blocks('custom_data.md', 'my_config.py')
    rng = np.random.default_rng(0)
    if kind == 'labelled folders':
        for i in range(48):
            folder = tmp_path / 'data' / ('val' if i % 3 == 0 else 'train') / f'class{i % 2}'
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(256, size=(80, 90, 3), dtype=np.uint8)).save(folder / f'{i}.jpg')
        output = train(tmp_path, labelled)
        for row in ('raw pixels', 'random initialisation', 'MoCo + Un-Mix'):
            assert row in output
    else:
        np.save(tmp_path / 'frames.npy', rng.integers(256, size=(20, 70, 70, 3), dtype=np.uint8))
        (code,) = blocks('custom_data.md', 'my_data.py')
        (tmp_path / 'my_data.py').write_text(code)
        body = code[code.index('@') :]
        assert len([line for line in body.splitlines() if line.strip()]) <= 10
        train(tmp_path, unlabelled)
