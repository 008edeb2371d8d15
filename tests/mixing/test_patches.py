"""Mixtures of which a ViT encodes some patches: which stay, their exact share, and the features of the rest."""

import importlib.util
import re

import numpy as np
import pytest
import torch
from algorithms_under_test import METHODS
from torch import Tensor

from unmix.mixing import KeptPatches, UnMix
from unmix.models import ResNet
from unmix.models.backbones.library import LibraryBackbone
from unmix.registry import MODELS
from unmix.utils.rng import generator

needs_timm = pytest.mark.skipif(importlib.util.find_spec('timm') is None, reason='timm is not installed')
VIT = dict(
    type='TorchVisionBackbone', model_name='VisionTransformer', img_size=16, dynamic_img_size=True,
    model_args=dict(patch_size=4, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64),
)  # fmt: skip
TIMM = dict(
    type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=16, dynamic_img_size=True,
    model_args=dict(patch_size=4, depth=2, num_heads=2, embed_dim=32),
)  # fmt: skip
VITS = pytest.mark.parametrize('vit', [VIT, pytest.param(TIMM, marks=needs_timm)], ids=['torchvision', 'timm'])
POOLS = pytest.mark.parametrize('pool', [None, 'token', 'mean'])


def build(vit: dict, pool: str | None) -> LibraryBackbone:
    torch.manual_seed(0)
    backbone = MODELS.build(vit | dict(pool=pool)).double()
    assert isinstance(backbone, LibraryBackbone)
    return backbone


def images(number: int = 3, height: int = 16) -> Tensor:
    return torch.randn(number, 3, height, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def numbers(*patches: int) -> np.ndarray:
    return np.array(patches)


@VITS
@POOLS
def test_features_depend_on_the_patches_that_stay_and_on_their_places(vit: dict, pool: str | None) -> None:
    backbone, x = build(vit, pool), images()
    some = KeptPatches(x, numbers(1, 6, 15), 4)
    features = backbone(some)
    torch.testing.assert_close(backbone(KeptPatches(x, np.arange(16), 4)), backbone(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(backbone(KeptPatches(some.shown(), some.numbers, 4)), features, rtol=0, atol=0)
    flipped = backbone(KeptPatches(x.flip(0), some.numbers, 4))
    torch.testing.assert_close(flipped, features.flip(0), rtol=0, atol=1e-12)
    same = torch.ones_like(x)
    one, other = (backbone(KeptPatches(same, numbers(patch), 4)) for patch in (0, 1))
    assert (one - other).abs().max() > 1e-3
    place = backbone.positions()
    assert place is not None
    getattr(place[0], place[1]).data.zero_()
    # Without positions a row of patches is an image of that height.
    row = backbone(KeptPatches(x, numbers(4, 5, 6, 7), 4))
    torch.testing.assert_close(row, backbone(x[:, :, 4:8]), rtol=0, atol=1e-12)


@pytest.mark.parametrize('size', [1.0, 0.5])
@pytest.mark.parametrize('shares', ['batch', 'sample'])
@pytest.mark.parametrize('mixing', ['CutMix', 'Mixup'])
def test_the_share_is_that_of_the_pixels_that_stay(mixing: str, shares: str, size: float) -> None:
    unmix = UnMix(dict(type=mixing), shares=shares, patch_drop=0.75, size=size)
    unmix.patch_size = 2
    view = torch.zeros(6, 1, 8, 8, dtype=torch.float64)
    view[:3] = 1  # so that pixels of the first three mixtures are the share of their own image
    for seed in range(10):
        mixture, lam = unmix.mix(view, generator(seed))
        side = round(8 * size)
        assert mixture.images.shape == (6, 1, side, side)
        assert list(mixture.numbers) == sorted(set(mixture.numbers))
        assert len(mixture.numbers) == (side // 2) ** 2 // 4
        patches = mixture.images.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).transpose(3, 4).reshape(6, -1, 4)
        expected = patches[:3, mixture.numbers].mean((1, 2))
        got = torch.as_tensor(lam, dtype=torch.float64).expand(6)[:3]
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_patches_are_drawn_anew_and_one_stays() -> None:
    unmix = UnMix(patch_drop=0.99)
    unmix.patch_size = 4
    drawn = [unmix.mix(images(), generator(seed))[0].numbers for seed in range(100)]
    assert {len(kept) for kept in drawn} == {1}
    assert {int(kept[0]) for kept in drawn} == set(range(16))


def test_what_is_not_encoded_is_shown_as_zero() -> None:
    shown = KeptPatches(torch.ones(1, 1, 4, 6), numbers(1, 3), 2).shown()
    assert shown[0, 0].tolist() == [[0, 0, 1, 1, 0, 0]] * 2 + [[1, 1, 0, 0, 0, 0]] * 2


@VITS
def test_a_step_computes_less(vit: dict) -> None:
    """The longest token sequences of a step are those of whole views; the mixture's are shorter."""
    backbone = build(vit, 'mean')
    seen: list[int] = []
    blocks = backbone.network.encoder.layers if vit is VIT else backbone.network.blocks  # type: ignore[union-attr]
    blocks[0].register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))  # type: ignore[operator,union-attr]
    backbone(images())
    backbone(KeptPatches(images(), np.arange(8), 4))
    assert seen == [17, 9]


@pytest.mark.parametrize(
    ('name', 'words'),
    [('moco-v2', f'{ResNet.__name__} encodes no image of which patches are missing'), ('swav', 'for ViTs')],
)
def test_networks_without_patches_are_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=rf'model\.unmix\.patch_drop is 0\.5.*{words}'):
        METHODS[name].build(dict(type='UnMix', patch_drop=0.5))


@VITS
def test_smaller_mixtures_are_refused_by_a_network_of_one_size(vit: dict) -> None:
    """And the two ways out that the message names work."""
    method = METHODS['moco-v2']
    model = method.build()
    model.backbone = build(vit | dict(dynamic_img_size=False), None)
    with pytest.raises(ValueError, match=r'model\.unmix\.size is 0\.5, but .* takes images of 16x16 px only.*dynamic'):
        model.check_unmix(UnMix(size=0.5))
    model.check_unmix(UnMix())
    model.backbone = build(vit | dict(dynamic_img_size=True), None)
    model.check_unmix(UnMix(size=0.5))
    mixture, _ = UnMix(size=0.5).mix(images(), np.random.default_rng(0))
    assert model.backbone(mixture).shape == (len(mixture), model.backbone.out_dim)


def test_crops_that_are_encoded_together_are_refused() -> None:
    model = METHODS['swav'].build()
    model.backbone = build(VIT, None)
    with pytest.raises(ValueError, match='SwAV encodes mixtures and crops of one size together'):
        model.check_unmix(UnMix(patch_drop=0.5))


@pytest.mark.parametrize(
    ('size', 'heights', 'words'),
    [
        (0.2, (16,), r'16 px of a view become 3 px of .* patches of 4 px do not divide\. Set it to 0\.25\.'),
        (0.6, (16,), r'Set it to 0\.5 or 0\.75\.'),
        (0.6, (12,), r'12 px and 16 px of a view become 7 px and 10 px .*Set it to 1\.'),
        (0.6, (16, 32, 24), r'Set it to 0\.5 or 1\.'),
        (0.5, (13,), r'Make the crops of the pipeline multiples of 4 px'),
    ],
)
@pytest.mark.parametrize('drop', [0, 0.5])
def test_mixtures_of_no_whole_patches_are_refused(
    size: float, heights: tuple[int, ...], words: str, drop: float
) -> None:
    """The sizes that the message names work."""
    views = [images(height=height) for height in heights]
    unmix = UnMix(patch_drop=drop, size=size)
    unmix.patch_size = 4
    with pytest.raises(ValueError, match=rf'model\.unmix\.size is {size}: .*{words}') as refused:
        unmix.mix(views, generator(0))
    for number in re.findall(r'Set it to ([\d.]+?)(?: or ([\d.]+))?\.$', str(refused.value)):
        for named in filter(None, number):
            unmix.size = float(named)
            for mixture in unmix.mix(views, generator(0))[0]:
                assert not any(side % 4 for side in getattr(mixture, 'images', mixture).shape[-2:])


@VITS
def test_the_message_of_a_vit_speaks_of_the_size(vit: dict) -> None:
    method = METHODS['moco-v2']
    model = method.build()
    model.backbone, model.unmix = build(vit, None), UnMix(size=0.6)
    model.unmix.patch_size = 4
    with pytest.raises(ValueError, match=r'model\.unmix\.size is 0\.6: sides of 16 px'):
        model.loss([images(), images()], torch.arange(3))


@pytest.mark.parametrize('wrong', [1, -0.1, 1.5])
def test_bad_shares_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=rf'model\.unmix\.patch_drop is {wrong}'):
        UnMix(patch_drop=wrong)
