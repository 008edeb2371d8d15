"""Transforms of mmcv beside those of torchvision: colours, draws, and files that mmcv decodes."""

import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image
from test_archives import pack_zip
from test_decode import photo
from torch import Tensor

from unmix.datasets import ArrayDataset, BrokenImage, ImageFolder, SampleKey
from unmix.datasets.transforms import MultiCrop, MultiView, SingleView

mmcv = pytest.importorskip('mmcv', reason='needs the package mmcv')
transforms = pytest.importorskip('mmcv.transforms')
LOAD = dict(type='mmcv.LoadImageFromFile')
COLOURS = dict(type='mmcv.RandomGrayscale', prob=0.5, keep_channels=True)
ARGUMENTS: dict[str, dict[str, Any]] = {
    'CenterCrop': dict(crop_size=8),
    'Compose': dict(transforms=[dict(type='RandomFlip', prob=0.5)]),
    'ImageToTensor': dict(keys=['img']),
    'Pad': dict(size_divisor=7),
    'RandomApply': dict(transforms=[dict(type='RandomFlip', prob=1.0)], prob=0.5),
    'RandomChoice': dict(transforms=[[dict(type='RandomFlip', prob=1.0)], [dict(type='Resize', scale=(12, 16))]]),
    'RandomChoiceResize': dict(scales=[(8, 9), (12, 10)]),
    'RandomFlip': dict(prob=0.5),
    'RandomGrayscale': dict(prob=0.5, keep_channels=True),
    'RandomResize': dict(scale=(12, 16), ratio_range=(0.5, 1.5)),
    'Resize': dict(scale=(9, 12)),
    'KeyMapper': dict(transforms=[dict(type='RandomFlip', prob=0.5)], mapping=dict(img='img'), auto_remap=True),
    'ToTensor': dict(keys=['img']),
}
REFUSED: dict[str, dict[str, Any]] = {  # they give several images, or are about other things than one image
    'LoadAnnotations': dict(),
    'MultiScaleFlipAug': dict(transforms=[], scales=[(8, 8)]),
    'TestTimeAug': dict(transforms=[[dict(type='Resize', scale=(8, 8))]]),
    'TransformBroadcaster': dict(transforms=[dict(type='RandomFlip', prob=1.0)], mapping=dict(img=['a', 'b'])),
}


@transforms.TRANSFORMS.register_module()
class RandomShade(transforms.BaseTransform):  # type: ignore[misc, name-defined]
    """A transform of a user's own, in the registry of mmcv, which draws from numpy."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        shade = np.random.randint(1, 4) * random.randint(1, 3)
        return results | dict(img=results['img'] // np.array([1, 1, shade], np.uint8))  # of BGR


def noise(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize('name', sorted(ARGUMENTS))
def test_each_transform_of_mmcv_by_name(name: str) -> None:
    """It is mmcv's own under the same seed, of BGR; the draws are those of the image, and nothing else moves."""
    image, key = noise(3, 14, 11), SampleKey(3, 2, 1)
    with DefaultScope.overwrite_default_scope('unmix'):  # as in a run; torchvision has a Resize too
        pipeline = MultiView([dict(type=f'mmcv.{name}', **ARGUMENTS[name])], num_views=4)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    views = pipeline(image, key)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    random.seed(5), np.random.seed(5)
    assert all(torch.equal(*pair) for pair in zip(views, pipeline(image, key), strict=True))
    plain = transforms.TRANSFORMS.build(dict(type=name, **ARGUMENTS[name]))
    from unmix.utils.rng import seeded

    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy()[..., ::-1])
    for number, view in enumerate(views):
        with seeded('augmentation', 1, 2, 3, number):
            expected = plain(dict(img=pixels.copy(), img_shape=(14, 11), height=14, width=11))['img']
        if isinstance(expected, Tensor):
            expected = expected.numpy().transpose(1, 2, 0) if name == 'ImageToTensor' else expected.numpy()
        assert np.array_equal(view.permute(1, 2, 0).numpy(), expected[..., ::-1])


def test_every_transform_is_tried() -> None:
    named = {name for name, kind in transforms.TRANSFORMS.module_dict.items() if kind.__module__.startswith('mmcv.')}
    assert named == {*ARGUMENTS, *REFUSED, 'LoadImageFromFile', 'Normalize'}


@pytest.mark.parametrize('name', sorted(REFUSED))
def test_what_is_not_about_one_image_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf'dataset\.pipeline\.transforms\.0: {name} does not work on .*\.$'):
        MultiView([dict(type=f'mmcv.{name}', **REFUSED[name])])(noise(3, 14, 11), SampleKey(0))


def test_beside_ours_and_torchvisions() -> None:
    image = noise(3, 20, 20)
    mixed = [
        dict(type='RandomResizedCrop', size=12),
        dict(type='mmcv.RandomShade'),
        dict(type='v2.RandomRotation', degrees=20),
        COLOURS,
        dict(type='PILGaussianBlur'),
    ]
    pipeline = MultiView(mixed, num_views=3)
    views = pipeline(image, SampleKey(1))
    assert all(torch.equal(*pair) for pair in zip(views, pipeline(image, SampleKey(1)), strict=True))
    assert not torch.equal(views[0], views[1])
    red = torch.tensor([200, 100, 50], dtype=torch.uint8)[:, None, None].expand(3, 4, 4)
    shaded = MultiView([dict(type='mmcv.RandomShade')], num_views=8)(red, SampleKey(1))
    assert all(view[1:, 0, 0].tolist() == [100, 50] for view in shaded)
    assert len({int(view[0, 0, 0]) for view in shaded}) > 2


def grey_of(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY))[..., None]


FORMS: dict[str, tuple[dict[str, Any], Any]] = {
    'plain': (dict(), lambda path: cv2.imread(path)[..., ::-1]),
    'grey': (dict(color_type='grayscale'), lambda path: cv2.imread(path, cv2.IMREAD_GRAYSCALE)[..., None]),
    'floats': (dict(to_float32=True), lambda path: cv2.imread(path)[..., ::-1].astype(np.float32)),
    'pillow': (dict(imdecode_backend='pillow'), lambda path: np.asarray(Image.open(path).convert('RGB'))),
    'stored': (dict(color_type='unchanged'), lambda path: cv2.imread(path, -1)[..., [2, 1, 0]]),
}


@pytest.mark.parametrize('suffix', ['jpg', 'png'])
@pytest.mark.parametrize('form', FORMS)
def test_files_that_mmcv_decodes(form: str, suffix: str, tmp_path: Path) -> None:
    kwargs, expected = FORMS[form]
    path = tmp_path / 'x' / f'1.{suffix}'
    path.parent.mkdir()
    photo((24, 18)).save(path)
    zipped = pack_zip(tmp_path / 'x.zip', [(f'1.{suffix}', path.read_bytes())])
    pipeline = dict(type='SingleView', transforms=[LOAD | kwargs, dict(type='CenterCrop', size=(18, 24))])
    for root, cache in ((path.parent, 'none'), (zipped, 'none'), (path.parent, 'full')):
        view = ImageFolder(root, pipeline=pipeline, cache=cache)[0]['inputs']
        assert np.array_equal(view.permute(1, 2, 0).numpy(), expected(str(path)))


def test_a_file_that_mmcv_cannot_decode(tmp_path: Path) -> None:
    for number in range(3):
        photo((24, 18)).save(tmp_path / f'{number}.jpg')
    (tmp_path / '1.jpg').write_bytes((tmp_path / '0.jpg').read_bytes()[:400])
    pipeline = MultiView([LOAD, dict(type='mmcv.Resize', scale=(8, 8))], num_views=1)
    with pytest.raises(BrokenImage, match=r'1\.jpg cannot be read \(it is truncated\).* number 1'):
        ImageFolder(tmp_path, pipeline=pipeline).__getitems__([0, 1])
    items = ImageFolder(tmp_path, pipeline=pipeline, broken='skip').__getitems__([0, 1])
    assert [item['index'] for item in items] == [0, 2]


def test_orientation_and_backend_of_the_transform(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    photo((20, 10)).save(tmp_path / 'x.jpg', exif=exif)
    stored = LOAD | dict(color_type='color_ignore_orientation', backend_args=dict(backend='local'))
    for load, exif_key, shape in ((LOAD, True, (3, 20, 10)), (stored, False, (3, 10, 20)), (stored, True, (3, 10, 20))):
        dataset = ImageFolder(tmp_path, pipeline=SingleView([load]), exif=exif_key)
        assert dataset.load(0)[0].shape == shape
    crops = MultiCrop([dict(num_views=1, transforms=[stored, dict(type='CenterCrop', size=size)]) for size in (8, 4)])
    assert [view.shape[1] for view in ImageFolder(tmp_path, pipeline=crops)[0]['inputs']] == [8, 4]


@pytest.mark.parametrize(('load', 'given', 'message'), [
    (LOAD, dict(decoder='cv2'), r"dataset\.decoder='cv2', but LoadImageFromFile"),
    (LOAD, dict(decode_size=8), r'dataset\.decode_size=8, but'),
    (LOAD, dict(exif=False), r"exif=False \(it has color_type='color_ignore_orientation'"),
    (LOAD | dict(backend_args=dict(backend='http')), dict(backend_args=dict(backend='local')), r'dataset\.backend_a'),
    (LOAD | dict(ignore_empty=True), dict(), r"ignore_empty=True; set dataset\.broken='skip'"),
])  # fmt: skip
def test_keys_that_do_not_go_with_it(load: dict[str, Any], given: dict[str, Any], message: str, tmp_path: Path) -> None:
    photo((20, 10)).save(tmp_path / 'x.jpg')
    with pytest.raises(ValueError, match=message):
        ImageFolder(tmp_path, pipeline=dict(type='SingleView', transforms=[load]), **given)


def test_places_where_it_cannot_be() -> None:
    with pytest.raises(ValueError, match=r'LoadImageFromFile, but ArrayDataset gives images, not files'):
        ArrayDataset(noise(2, 3, 8, 8), pipeline=SingleView([LOAD]))
    with pytest.raises(ValueError, match=r'transforms\.1: LoadImageFromFile .* must be the first transform of all'):
        SingleView([dict(type='mmcv.RandomFlip', prob=0.5), LOAD])(noise(3, 8, 8), SampleKey(0))

    class Own(transforms.LoadImageFromFile):  # type: ignore[misc, name-defined]
        def transform(self, results: dict[str, Any]) -> dict[str, Any]:
            return results

    with pytest.raises(ValueError, match=r'transforms\.0: Own reads in a way of its own'):
        SingleView([Own()])


def test_kinds_of_crops_decode_alike() -> None:
    floats, crop = LOAD | dict(to_float32=True), dict(type='CenterCrop', size=4)

    def kinds(*loads: dict[str, Any] | None) -> MultiCrop:
        return MultiCrop([dict(num_views=1, transforms=[*filter(None, [load]), crop]) for load in loads])

    assert kinds(None, None).reader is None
    for loads in ((floats, None), (floats, dict(floats))):
        reader = kinds(*loads).reader
        assert reader is not None
        assert reader.floats
    for wrong in ((None, floats), (LOAD, floats), (floats, floats, LOAD)):
        with pytest.raises(ValueError, match=rf'MultiCrop\.crops\.{len(wrong) - 1}\.transforms\.0 is LoadImage.*first'):
            kinds(*wrong)
