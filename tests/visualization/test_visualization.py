"""Curves and sheets."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from unmix.visualization import denormalize, draw_curves, draw_views, read_scalars


def write(path, *records):
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return path


def test_a_resumed_training_gives_one_curve(tmp_path):
    first = write(tmp_path / 'a', *[{'loss': 10.0 - i, 'step': i} for i in (1, 2, 3, 4)], {'knn/top1': 50.0, 'step': 1})
    second = write(tmp_path / 'b', *[{'loss': -1.0, 'step': i} for i in (3, 4, 5)], {'knn/top1': 60.0, 'step': 2})
    train, validation = read_scalars([first, second])
    assert [(r['step'], r['loss']) for r in train] == [(1, 9.0), (2, 8.0), (3, -1.0), (4, -1.0), (5, -1.0)]
    assert [(r['step'], r['knn/top1']) for r in validation] == [(1, 50.0), (2, 60.0)]
    draw_curves([first, second], tmp_path / 'curves.png')
    assert Image.open(tmp_path / 'curves.png').size[0] > 1000  # two panels
    draw_curves([write(tmp_path / 'c', {'loss': 1.0, 'step': 1})], tmp_path / 'one.png')
    assert Image.open(tmp_path / 'one.png').size[0] < 1000
    with pytest.raises(ValueError, match='No loss'):
        draw_curves([write(tmp_path / 'd', {'lr': 1.0, 'step': 1})], tmp_path / 'none.png')


@pytest.mark.parametrize('channels', [1, 3])
def test_denormalize_undoes_the_data_preprocessor(channels):
    from unmix.models import DataPreprocessor

    images = torch.randint(0, 256, (5, channels, 4, 4), dtype=torch.uint8)
    for preprocessor in (DataPreprocessor([90.0] * channels, [60.0] * channels), DataPreprocessor()):
        seen = preprocessor(dict(inputs=images))['inputs']
        torch.testing.assert_close(denormalize(seen, preprocessor.mean, preprocessor.std), images / 255)


@pytest.mark.parametrize('channels', [1, 2, 3])
def test_a_sheet_shows_the_images(tmp_path, channels):
    views = [torch.zeros(3, channels, 8, 8), torch.full((3, channels, 6, 6), 0.5)]
    draw_views(views, tmp_path / 'sheet.png', mixture=torch.ones(3, channels, 8, 8) * 0.25, lam=0.3)
    pixels = np.asarray(Image.open(tmp_path / 'sheet.png').convert('L')).reshape(-1)
    counts = np.bincount(pixels, minlength=256)
    # view 1 and the partners are black, view 2 mid grey, the mixtures a quarter
    assert counts[0] > counts[126:130].sum() > 1000
    assert counts[62:66].sum() > 1000
