"""Curves and sheets."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from unmix.config import load_config
from unmix.registry import MODELS
from unmix.utils.clock import Step
from unmix.utils.run_files import read_scalars
from unmix.visualization import Mixture, draw_curves, draw_views, draws_of_a_run
from unmix.visualization.run_plots import accuracy_plots, loss_plots


def write(path, *records):
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return path


def test_a_resumed_training_gives_one_curve(tmp_path):
    first = write(tmp_path / 'a', *[{'loss': 10.0 - i, 'step': i} for i in (1, 2, 3, 4)], {'knn/top1': 50.0, 'step': 1})
    second = write(tmp_path / 'b', *[{'loss': -1.0, 'step': i} for i in (3, 4, 5)], {'knn/top1': 60.0, 'step': 2})
    train, validation = read_scalars([first, second])
    assert [(r['step'], r['loss']) for r in train] == [(1, 9.0), (2, 8.0), (3, -1.0), (4, -1.0), (5, -1.0)]
    assert [(r['step'], r['knn/top1']) for r in validation] == [(1, 50.0), (2, 60.0)]


def test_panels_are_drawn(tmp_path):
    train = [dict(step=step, loss=9.0 - step, loss_base=1.0) for step in range(5)]
    once = [{'step': 10, 'knn/top1': 50.0}]
    draw_curves(list(loss_plots(train)), tmp_path / 'two.png', '$a run$')
    draw_curves(list(accuracy_plots(once, {'knn': {'raw_pixels_top1': 25.0}})), tmp_path / 'one.png')
    two, one = (np.asarray(Image.open(tmp_path / name).convert('RGB')) for name in ('two.png', 'one.png'))
    assert two.shape[1] > 1000 > one.shape[1]
    blue = [(pixels == (31, 119, 180)).all(-1).sum() for pixels in (two, one)]
    assert blue[1] > 10_000 > blue[0]  # one validation is a bar, and no lone dot
    with pytest.raises(ValueError, match='Nothing to draw'):
        draw_curves(list(loss_plots([dict(step=1, lr=1.0)])), tmp_path / 'none.png')


@pytest.mark.parametrize('preprocessor', [
    dict(), dict(mean=[90.0] * 3, std=[60.0] * 3), dict(type='ColorPreprocessor'),
    dict(type='ColorPreprocessor', color_space='ycbcr'),
], ids=str)  # fmt: skip
def test_pictures_have_the_colours_of_the_images(preprocessor):
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    built = MODELS.build(dict(type='DataPreprocessor') | preprocessor)
    seen = built(dict(inputs=images))['inputs']
    # Lab's two branches of the cube root meet to four digits only, and OpenCV has its own.
    torch.testing.assert_close(built.restore(seen), images / 255, atol=2e-3, rtol=0)


@pytest.mark.parametrize('channels', [1, 2, 3])
def test_a_sheet_shows_the_images(tmp_path, channels):
    views = [torch.zeros(3, channels, 8, 8), torch.full((3, channels, 6, 6), 0.5)]
    mixture = Mixture(torch.ones(3, channels, 8, 8) * 0.25, torch.full((8, 8), 0.7), 0.3, 0)
    draw_views(views, tmp_path / 'sheet.png', [mixture])
    pixels = np.asarray(Image.open(tmp_path / 'sheet.png').convert('L')).reshape(-1)
    counts = np.bincount(pixels, minlength=256)
    # view 1 and the partners are black, view 2 mid grey, the mixtures a quarter
    assert counts[0] > counts[126:130].sum() > 1000
    assert counts[62:66].sum() > 1000


@pytest.mark.parametrize(('name', 'views'), [('moco', 2), ('swav', 4), ('deepclusterv2', 4), ('simclr', 2)])
def test_the_sheet_has_the_draws_of_the_run(name, views):
    """Each mixture is that of the loss of its step; boxes and shares are those of its pixels."""
    options = {'model.unmix.mixing.prob': 0.5}  # the recipe has region mixtures only
    model = MODELS.build(load_config(f'quickstart/unmix-{name}_digits', options).model)
    inputs = [torch.rand(4, 1, 16, 16) for _ in range(views)]
    found = draws_of_a_run(model, inputs, seed=3)
    assert [mixture.kind for mixture in found] == ['global'] * 2 + ['region'] * 2
    assert model.step == Step()
    for mixture in found:
        model.step = Step(3, mixture.iteration)
        mixed, lam = model.mix(model.views(inputs))
        mixed = mixed if isinstance(mixed, torch.Tensor) else mixed[0]
        torch.testing.assert_close(mixture.images, mixed, rtol=0, atol=0)
        assert mixture.lam == pytest.approx(float(torch.as_tensor(lam).flatten()[0]))
        share = mixture.partner
        torch.testing.assert_close(mixed, (1 - share) * inputs[0] + share * inputs[0].flip(0))
        assert share.mean() == pytest.approx(1 - mixture.lam, abs=1e-6)
        if mixture.kind == 'region':
            top, bottom, left, right = mixture.box or (0, 0, 0, 0)
            assert share.sum() == share[top:bottom, left:right].numel()


@pytest.mark.parametrize(
    'form', [dict(partner='random'), dict(partner='random', shares='sample'), dict(pairs='once', size=0.5, every=3)]
)
def test_the_sheet_has_the_partners_and_shares_of_every_form(form):
    """Each mixture is made of the two images that are said to be in it, in the shares that are said."""
    options = {'model.unmix.mixing.prob': 0.5} | {f'model.unmix.{key}': value for key, value in form.items()}
    model = MODELS.build(load_config('quickstart/unmix-moco_digits', options).model)
    inputs = [torch.rand(4, 1, 16, 16) for _ in range(2)]
    found = draws_of_a_run(model, inputs, seed=3)
    assert len(found) == 4
    for mixture in found:
        assert mixture.iteration % form.get('every', 1) == 0
        others = torch.arange(4).flip(0) if mixture.others is None else mixture.others
        lams = torch.as_tensor(mixture.lam).expand(len(mixture.images))
        for n, image in enumerate(mixture.images):
            share = mixture.partner if mixture.partner.ndim == 2 else mixture.partner[n]
            expected = (1 - share) * inputs[0][n] + share * inputs[0][others[n]]
            scaled = torch.nn.functional.interpolate(expected[None], image.shape[-2:], mode='bilinear', antialias=True)
            torch.testing.assert_close(image, scaled[0] if image.shape != expected.shape else expected)
            if others[n] != n:
                assert share.mean() == pytest.approx(1 - float(lams[n]), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('form', [dict(partner='random', shares='sample'), dict(pairs='once', size=0.5)])
def test_the_sheet_of_every_form_is_drawn(form, tmp_path):
    options = {f'model.unmix.{key}': value for key, value in form.items()}
    model = MODELS.build(load_config('quickstart/unmix-moco_digits', options).model)
    inputs = [torch.rand(4, 1, 16, 16) for _ in range(2)]
    draw_views(inputs, tmp_path / 'sheet.png', draws_of_a_run(model, inputs, seed=3, each=1))
    assert (tmp_path / 'sheet.png').stat().st_size > 1000


def test_without_unmix_there_are_no_mixtures():
    model = MODELS.build(load_config('quickstart/simclr_digits').model)
    assert draws_of_a_run(model, [torch.rand(4, 1, 16, 16)] * 2, seed=0) == []
