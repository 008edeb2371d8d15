"""Neighbours and embeddings."""

import numpy as np
import pytest
import torch
from PIL import Image

from unmix.visualization import neighbours
from unmix.visualization.embedding import project
from unmix.visualization.neighbours import Neighbourhood, draw_neighbours, nearest


def test_the_nearest_are_those_of_a_loop(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(number, 5, generator=generator, dtype=torch.float64) for number in (50, 4))
    bank[30] = bank[7] * 4  # as near
    monkeypatch.setattr(neighbours, '_BLOCK', 11)
    cosine = [[float(q @ b / q.norm() / b.norm()) for b in bank] for q in queries]
    expected = [sorted(range(50), key=lambda n, row=row: (-round(row[n], 5), n))[:6] for row in cosine]
    assert nearest(bank, queries, 6).tolist() == expected
    assert nearest(bank.numpy(), bank[7:8].numpy(), 2).tolist() == [[7, 30]]
    assert nearest(bank, queries, 99).shape == (4, 50)
    with pytest.raises(ValueError, match='as many dimensions'):
        nearest(bank, queries[:, :3], 2)


def test_the_sheet_has_the_images_and_frames(tmp_path):
    def image(colour):
        return Image.new('RGB', (8, 4), colour)

    row = Neighbourhood(image('blue'), [image('red'), image('lime')], [True, False], '$1 <b> 名')
    draw_neighbours([row], tmp_path / 'sheet.png', 'MoCo, seed 3')
    pixels = np.asarray(Image.open(tmp_path / 'sheet.png').convert('RGB')).reshape(-1, 3)
    found = np.unique(pixels, axis=0, return_counts=True)
    colours = {tuple(colour): int(count) for colour, count in zip(*found, strict=True)}
    for colour in ((0, 0, 255), (255, 0, 0), (0, 255, 0)):
        assert colours[colour] == 64 * 32
    for frame in ((46, 139, 87), (205, 92, 0)):
        assert colours[frame] == 72 * 72 - 64 * 64


def test_pca_has_the_variance_and_the_seed_decides():
    features = np.random.default_rng(0).normal(size=(40, 6)) * [9, 5, 1, 1, 1, 1]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    points = project(features)
    expected = np.sort(np.linalg.eigvalsh(np.cov(unit.T)))[::-1][:2]
    assert points.var(0, ddof=1) == pytest.approx(expected, rel=1e-4)
    assert project(features * 3, 'pca') == pytest.approx(points, abs=1e-5)


@pytest.mark.slow
def test_t_sne_separates_classes():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = np.eye(8)[labels] + 0.05 * rng.normal(size=(60, 8))
    points = project(torch.from_numpy(features), 'tsne', seed=1)
    assert (points == project(features, 'tsne', seed=1)).all()
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.diag(np.full(60, np.inf))
    assert (labels[distance.argmin(1)] == labels).all()


@pytest.mark.parametrize('shape', [(1, 4), (7, 1), (6, 3)])
def test_few_or_equal_features_are_points_too(shape):
    assert project(np.ones(shape)).tolist() == [[0.0, 0.0]] * shape[0]
    if shape[0] >= 5:
        assert project(np.ones(shape), 'tsne').shape == (shape[0], 2)


def test_wrong_features_are_refused():
    with pytest.raises(ValueError, match="expected one of 'pca', 'tsne', 'umap'"):
        project(np.ones((9, 2)), 'mds')
    with pytest.raises(ValueError, match='NaN'):
        project(np.full((9, 2), np.nan))
    with pytest.raises(ValueError, match='needs 5, here are 4'):
        project(np.ones((4, 2)), 'tsne')
    with pytest.raises(ValueError, match='expected \\(images, dimensions\\)'):
        project(np.ones(4))
