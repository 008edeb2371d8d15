"""Transforms of whole batches, drawn and applied apart."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unmix.datasets import SampleKey
from unmix.datasets.transforms import BatchAffine, BatchColorJitter, BatchGamma, BatchMultiView, BatchNoise
from unmix.utils.rng import stream, uniforms

SHAPE = torch.Size([4, 2, 9, 7])


def constant(value: float, rows: int = 4):
    """Uniform numbers that are all the same."""
    return lambda num: np.full((rows, num), value)


def images(shape: torch.Size = SHAPE) -> torch.Tensor:
    return torch.rand(shape) * 255


def test_affine_without_change_is_the_identity() -> None:
    transform = BatchAffine(scale=(1, 1), ratio=(1, 1))
    x = images()
    torch.testing.assert_close(transform.apply(x, transform.draw(constant(0.3), SHAPE)), x, rtol=0, atol=2e-3)


def test_affine_flip_is_flip() -> None:
    transform = BatchAffine(scale=(1, 1), ratio=(1, 1), flip_prob=1)
    x = images()
    torch.testing.assert_close(transform.apply(x, transform.draw(constant(0.9), SHAPE)), x.flip(3), rtol=0, atol=2e-3)


@pytest.mark.parametrize(('uniform', 'turns'), [(1.0, 1), (0.0, -1)])
def test_affine_quarter_turn_is_rot90(uniform: float, turns: int) -> None:
    transform = BatchAffine(scale=(1, 1), ratio=(1, 1), degrees=90)
    x = images(torch.Size([4, 2, 8, 8]))
    turned = transform.apply(x, transform.draw(constant(uniform), x.shape))
    torch.testing.assert_close(turned, x.rot90(turns, (2, 3)), rtol=0, atol=2e-3)


def test_affine_crop_of_a_quarter_in_the_corner_is_that_corner_enlarged() -> None:
    transform = BatchAffine(scale=(0.25, 0.25), ratio=(1, 1))
    x = images(torch.Size([4, 1, 8, 8]))
    corner = transform.apply(x, transform.draw(constant(0.0), x.shape))
    expected = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)[..., :8, :8]
    torch.testing.assert_close(corner[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=0, atol=2e-3)


def test_affine_is_zero_outside() -> None:
    transform = BatchAffine(scale=(1, 1), ratio=(1, 1), degrees=45)
    x = torch.full((4, 1, 32, 32), 255.0)
    corners = transform.apply(x, transform.draw(constant(1.0), x.shape))[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.eq(0).all()


def test_affine_maps_are_those_of_the_recipe() -> None:
    """Naive oracle: rotation times scale times flip, one image at a time."""
    transform = BatchAffine(scale=(0.3, 1.0), ratio=(1 / 2, 2), flip_prob=0.5, degrees=30)
    uniform = np.random.default_rng(0).random((200, 6))
    maps = transform.draw(lambda num: uniform[:, :num], torch.Size([200, 1, 8, 8])).numpy()
    for u, found in zip(uniform, maps, strict=True):
        area, ratio = 0.3 + 0.7 * u[0], 2 ** (2 * u[1] - 1)
        width, height = min(math.sqrt(area * ratio), 1), min(math.sqrt(area / ratio), 1)
        angle = math.radians(30) * (2 * u[5] - 1)
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        expected = rotation @ np.diag([width * (-1 if u[4] < 0.5 else 1), height])
        np.testing.assert_allclose(found[:, :2], expected, atol=1e-6)
        np.testing.assert_allclose(
            found[:, 2], [(2 * u[2] - 1) * (1 - width), (2 * u[3] - 1) * (1 - height)], atol=1e-6
        )


def test_affine_distribution() -> None:
    """Area uniform on its range where no side is cut, crops inside of the image, flips as often as asked."""
    transform = BatchAffine(scale=(0.2, 0.6), ratio=(3 / 4, 4 / 3), flip_prob=0.3)
    n = 20000
    maps = transform.draw(lambda num: uniforms(1, np.arange(n), num), torch.Size([n, 1, 8, 8])).double()
    width, height = maps[:, 0, 0].abs(), maps[:, 1, 1]
    area = width * height
    assert area.min() >= 0.2 - 1e-6
    assert area.max() <= 0.6 + 1e-6
    assert abs(area.mean().item() - 0.4) < 5 * 0.4 / math.sqrt(12 * n)
    assert ((maps[:, :, 2].abs() + torch.stack([width, height], 1)) <= 1 + 1e-6).all()
    assert abs((maps[:, 0, 0] < 0).double().mean().item() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / n)
    log_ratio = (width / height).log()
    assert abs(log_ratio.mean().item()) < 5 * math.log(4 / 3) / math.sqrt(3 * n)


def test_color_jitter_is_contrast_about_the_mean_then_brightness() -> None:
    transform = BatchColorJitter(brightness=0.4, contrast=0.2)
    x = images()
    uniform = np.random.default_rng(1).random((4, 2))
    jittered = transform.apply(x, transform.draw(lambda num: uniform[:, :num], SHAPE))
    for i in range(4):
        contrast, brightness = 1 + 0.2 * (2 * uniform[i, 0] - 1), 1 + 0.4 * (2 * uniform[i, 1] - 1)
        expected = ((x[i] - x[i].mean()) * contrast + x[i].mean()) * brightness
        torch.testing.assert_close(jittered[i], expected, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(transform.apply(x, transform.draw(constant(0.5), SHAPE)), x)


def test_gamma() -> None:
    transform, x = BatchGamma(0.7), images()
    torch.testing.assert_close(
        transform.apply(x, transform.draw(constant(1.0), SHAPE)), 255 * (x / 255).clamp(min=1e-4) ** math.exp(0.7)
    )
    black = torch.zeros(SHAPE)
    assert transform.apply(black, transform.draw(constant(0.5), SHAPE)).allclose(torch.tensor(255 * 1e-4))


def test_noise_is_normal_with_a_uniform_deviation() -> None:
    n, shape = 2000, torch.Size([2000, 1, 15, 15])
    transform = BatchNoise(max_std=50.0)

    def uniform(num: int) -> np.ndarray:
        return uniforms(3, np.arange(n), num)

    noise = transform.draw(uniform, shape).double()
    std = noise.std((1, 2, 3))
    assert torch.corrcoef(torch.stack([std, torch.from_numpy(50 * uniform(1)[:, 0])]))[0, 1] > 0.99
    normal = noise.flatten(1) / torch.from_numpy(50 * uniform(1))
    assert abs(normal.mean().item()) < 5 / math.sqrt(normal.numel())
    assert abs(normal.var().item() - 1) < 5 * math.sqrt(2 / normal.numel())
    assert abs((normal**4).mean().item() - 3) < 5 * math.sqrt(96 / normal.numel())
    assert abs((normal[:, 1:] * normal[:, :-1]).mean().item()) < 5 / math.sqrt(normal.numel())
    x = images(shape)
    torch.testing.assert_close(transform.apply(x, noise.float()) - x, noise.float(), rtol=0, atol=1e-4)


def pipeline(**kwargs) -> BatchMultiView:
    return BatchMultiView(
        [dict(type='BatchAffine', degrees=15), dict(type='BatchColorJitter'), dict(type='BatchNoise', max_std=10.0)],
        **kwargs,
    )


@pytest.mark.parametrize(('channels', 'height', 'width'), [(1, 16, 16), (3, 17, 15)])
def test_views_of_an_image_do_not_depend_on_the_batch(channels: int, height: int, width: int) -> None:
    """Bit for bit."""
    x = images(torch.Size([6, channels, height, width]))
    keys = [SampleKey(i, 2, 7) for i in (5, 0, 11, 3, 4, 9)]
    views = pipeline(num_views=3).batch(x, keys)
    assert len(views) == 3
    part = pipeline(num_views=2).batch(x[[4, 1]], [keys[4], keys[1]])
    for view, rows in zip(views[:2], part, strict=True):
        torch.testing.assert_close(view[[4, 1]], rows, rtol=0, atol=0)
    for view, alone in zip(views[:2], pipeline()(x[3], keys[3]), strict=True):
        torch.testing.assert_close(view[3], alone, rtol=0, atol=0)


def test_views_epochs_seeds_and_images_all_differ() -> None:
    x = torch.rand(1, 1, 16, 16).expand(3, 1, 16, 16) * 255
    found = [
        image
        for seed in range(2)
        for epoch in range(3)
        for view in pipeline().batch(x, [SampleKey(i, epoch, seed) for i in range(3)])
        for image in view
    ]
    distance = torch.cdist(torch.stack(found).flatten(1), torch.stack(found).flatten(1))
    assert len(found) == 36
    assert (distance + 1e9 * torch.eye(36)).min() > 1


def test_draws_of_a_transform_do_not_depend_on_the_others_and_a_second_one_draws_anew() -> None:
    x, keys = images(torch.Size([5, 1, 16, 16])), [SampleKey(i, 1, 0) for i in range(5)]
    alone = BatchMultiView([dict(type='BatchColorJitter')]).batch(x, keys)[1]
    key = stream('augmentation', 0, 1, 1, 'BatchColorJitter')
    jitter = BatchColorJitter()
    expected = jitter.apply(x, jitter.draw(lambda num: uniforms(key, np.arange(5), num), x.shape))
    torch.testing.assert_close(alone, expected)
    twice = BatchMultiView([dict(type='BatchColorJitter')] * 2).batch(x, keys)[1]
    repeated = jitter.apply(expected, jitter.draw(lambda num: uniforms(key, np.arange(5), num), x.shape))
    assert (twice - repeated).abs().max() > 1


def test_a_batch_of_two_epochs_is_refused() -> None:
    with pytest.raises(ValueError, match=r'one seed and one epoch, not of \[\(0, 0\), \(0, 1\)\]'):
        pipeline().batch(images(torch.Size([2, 1, 8, 8])), [SampleKey(0, 0), SampleKey(0, 1)])
