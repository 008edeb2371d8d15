"""Decoders by name: which pixels are the same, what is kept as it is stored, and what is refused."""

import importlib.util
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, features
from test_decode import photo

from unmix.datasets import BrokenImage, ImageFolder, decode_image, decoders
from unmix.datasets.decoders import DECODERS, SCALING
from unmix.registry import DATASETS

ORIENTATION = 274


def usable(decoder: str) -> bool:
    try:
        decoders.check_decoder(decoder)
    except ImportError:
        return False
    return True


@pytest.fixture(params=[name for name in DECODERS if name != 'auto'])
def decoder(request: pytest.FixtureRequest) -> str:
    if not usable(request.param):
        pytest.skip(f'{request.param} or its library is not installed')
    return request.param


def noise(*shape: int, kind: Any = np.uint8, seed: int = 0) -> np.ndarray:
    info = np.iinfo(kind) if np.issubdtype(kind, np.integer) else None
    values = np.random.default_rng(seed).random(shape)
    return (values * (info.max if info else 1)).astype(kind)


def encoded(image: Image.Image, suffix: str, **kwargs: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, suffix, **kwargs)
    return buffer.getvalue()


def pixels(data: bytes, decoder: str, **kwargs: Any) -> np.ndarray:
    found = decode_image('x', data=data, decoder=decoder, **kwargs).permute(1, 2, 0)
    assert found.is_contiguous()
    return found.numpy()


@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_images_of_8_bits_have_the_same_pixels(decoder: str, mode: str) -> None:
    """OpenCV and PyTurboJPEG decode by libjpeg-turbo, with its exact DCT and smooth upsampling, as PIL does."""
    for size in ((40, 30), (33, 21), (1, 1)):
        image = photo(size).convert(mode)
        files = [encoded(image, suffix) for suffix in ('PNG', 'BMP')]
        files += [
            encoded(image, 'JPEG', quality=quality, subsampling=subsampling, progressive=progressive)
            for quality, subsampling, progressive in ((60, 0, False), (75, 1, False), (90, 2, True))
        ]
        for data in files:
            assert np.array_equal(pixels(data, decoder), pixels(data, 'auto'))


def test_other_forms_of_jpeg_and_png(decoder: str) -> None:
    """CMYK is turned into RGB by a formula of each library; OpenCV keeps transparency."""
    data = encoded(photo((20, 30)).convert('CMYK'), 'JPEG')
    assert pixels(data, decoder).shape == (30, 20, 3)
    if decoder != 'cv2':
        assert np.array_equal(pixels(data, decoder), pixels(data, 'auto'))
    clear = encoded(Image.fromarray(noise(9, 7, 4), 'RGBA'), 'PNG')
    assert np.array_equal(pixels(clear, decoder)[..., :3], pixels(clear, 'auto'))
    assert pixels(clear, decoder).shape[2] == (4 if decoder == 'cv2' else 3)
    palette = encoded(photo((20, 30)).convert('P'), 'PNG')
    assert np.array_equal(pixels(palette, decoder), pixels(palette, 'auto'))


@pytest.mark.parametrize('suffix', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
@pytest.mark.parametrize('turn', range(1, 9))
def test_photographs_are_turned_upright(decoder: str, suffix: str, turn: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    data = encoded(photo((20, 10)), suffix, exif=exif, **dict(lossless=True) if suffix == 'WEBP' else {})
    assert np.array_equal(pixels(data, decoder), pixels(data, 'auto'))
    if suffix == 'TIFF' and decoder == 'tifffile':  # PIL and OpenCV turn it in either case
        assert pixels(data, decoder, exif=False).shape == (10, 20, 3)
    else:
        assert np.array_equal(pixels(data, decoder, exif=False), pixels(data, 'auto', exif=False))


@pytest.mark.skipif(not features.check('avif'), reason='needs a PIL that reads AVIF')
@pytest.mark.parametrize('turn', range(1, 9))
def test_avif_is_turned_upright(turn: int) -> None:
    """Each by its own pixels, which PIL turns in the oracle: libraries differ in the colours of AVIF."""
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    data = encoded(photo((20, 10)), 'AVIF', exif=exif)
    for decoder in ('auto', 'cv2'):
        try:
            stored = pixels(data, decoder, exif=False)
        except BrokenImage:
            pytest.skip('needs an OpenCV that reads AVIF')
        image = Image.fromarray(stored)
        image.getexif()[ORIENTATION] = turn
        assert stored.shape == (10, 20, 3)
        assert np.array_equal(pixels(data, decoder), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize('compression', ['tiff_lzw', 'jpeg', 'group4'])
def test_a_tiff_that_needs_imagecodecs_says_so(compression: str, tmp_path: Path) -> None:
    pytest.importorskip('tifffile', reason='needs the package tifffile')
    image = photo((32, 16)).convert('1' if compression == 'group4' else 'RGB')
    (tmp_path / 'x.tif').write_bytes(encoded(image, 'TIFF', compression=compression))
    if importlib.util.find_spec('imagecodecs') is None:
        with pytest.raises(
            BrokenImage, match=r"'imagecodecs' package\)\. The file may be whole\. .*pip install imagecodecs"
        ):
            decode_image(tmp_path / 'x.tif', decoder='tifffile')
    assert decode_image(tmp_path / 'x.tif', decoder='pil').shape == (3, 16, 32)  # what the message says
    assert decode_image(tmp_path / 'x.tif', decoder='cv2').shape == (3, 16, 32)
    (tmp_path / 'x.tif').write_bytes(b'II*\0junk')
    with pytest.raises(BrokenImage, match=r'Replace or delete the file\.$'):
        decode_image(tmp_path / 'x.tif', decoder='tifffile')


@pytest.mark.parametrize('shape', [(9, 7), (9, 7, 3), (9, 7, 4)])
@pytest.mark.parametrize(('suffix', 'kind'), [
    ('.png', np.uint8), ('.png', np.uint16), ('.tif', np.uint16), ('.tif', np.float32),
])  # fmt: skip
def test_opencv_keeps_what_is_stored(shape: tuple[int, ...], suffix: str, kind: Any) -> None:
    image = noise(*shape, kind=kind)
    found = pixels(cv2.imencode(suffix, image)[1].tobytes(), 'cv2')
    image = np.atleast_3d(image)
    expected = image[..., [2, 1, 0, 3][: image.shape[2]]] if image.shape[2] > 1 else image
    expected = np.repeat(expected, 3, 2) if kind == np.uint8 and image.shape[2] == 1 else expected
    assert found.dtype == kind
    assert np.array_equal(found, expected)


TIFFS = {  # how an array (H, W, C) is written, and which of the axes are so
    'grey': (1, dict(photometric='minisblack'), lambda x: x[..., 0]),
    'pixels': (13, dict(photometric='minisblack', planarconfig='contig'), lambda x: x),
    'planes': (5, dict(photometric='minisblack', planarconfig='separate'), lambda x: x.transpose(2, 0, 1)),
    'pages': (6, dict(photometric='minisblack'), lambda x: x.transpose(2, 0, 1)),
    'two': (2, dict(photometric='minisblack', planarconfig='contig'), lambda x: x),
    'colour': (3, dict(photometric='rgb'), lambda x: x),
    'big': (4, dict(photometric='rgb', bigtiff=True, extrasamples=['unspecified']), lambda x: x),
    'other order': (3, dict(photometric='rgb', byteorder='>'), lambda x: x),
}


@pytest.mark.parametrize('name', TIFFS)
@pytest.mark.parametrize('kind', [np.uint8, np.uint16, np.int16, np.float32])
def test_tifffile_keeps_what_is_stored(name: str, kind: Any) -> None:
    tifffile = pytest.importorskip('tifffile', reason='needs the package tifffile')
    channels, kwargs, order = TIFFS[name]
    image, buffer = noise(9, 7, channels, kind=kind), io.BytesIO()
    tifffile.imwrite(buffer, order(image), **kwargs)
    found = pixels(buffer.getvalue(), 'tifffile')
    assert found.dtype == kind
    assert np.array_equal(found, image)


def test_opencv_leaves_no_channel_out(tmp_path: Path) -> None:
    """It reads some of the channels of a TIFF as if they were all."""
    tifffile = pytest.importorskip('tifffile', reason='needs the package tifffile')
    for channels in (2, 4, 13):
        path = tmp_path / f'{channels}.tif'
        tifffile.imwrite(path, noise(9, 7, channels), photometric='minisblack', planarconfig='contig')
        with pytest.raises(BrokenImage, match=rf'{channels}\.tif cannot be read .*decoder=.tifffile'):
            decode_image(path, decoder='cv2')


def test_what_cannot_be_decoded_is_named(decoder: str, capfd: pytest.CaptureFixture[str]) -> None:
    whole = {suffix: encoded(photo((200, 133)), suffix) for suffix in ('JPEG', 'PNG', 'TIFF')}
    whole['thumb'] = encoded(photo((200, 133)), 'JPEG', exif=b'Exif\0\0' + whole['JPEG'])  # which has an end of its own
    files = [b'', b'no image'] + [data[: len(data) * part // 100] for data in whole.values() for part in (10, 50, 99)]
    for data in files:
        with pytest.raises(BrokenImage, match=r'^The image x cannot be read \(.*\)\. Replace or delete the file\.$'):
            decode_image('x', data=data, decoder=decoder)
    assert 'ERROR' not in capfd.readouterr().err  # of OpenCV


def test_tiffs_with_more_axes_or_other_numbers(tmp_path: Path) -> None:
    tifffile = pytest.importorskip('tifffile', reason='needs the package tifffile')
    tifffile.imwrite(tmp_path / 'x.tif', noise(2, 3, 9, 7, kind=np.uint16), photometric='minisblack')
    with pytest.raises(BrokenImage, match=r'axes .*\(2, 3, 9, 7\); expected Y, X and at most one'):
        decode_image(tmp_path / 'x.tif', decoder='tifffile')
    tifffile.imwrite(tmp_path / 'x.tif', noise(9, 7).astype(np.complex64), photometric='minisblack')
    with pytest.raises(BrokenImage, match=r'its values are complex64; expected integers or floats'):
        decode_image(tmp_path / 'x.tif', decoder='tifffile')
    (tmp_path / 'y.png').write_bytes(encoded(photo((9, 7)), 'PNG'))
    assert torch.equal(decode_image(tmp_path / 'y.png', decoder='tifffile'), decode_image(tmp_path / 'y.png'))


def test_keys_that_do_not_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo((40, 30)).save(tmp_path / 'x.jpg')
    with pytest.raises(ValueError, match=r"dataset\.decoder is 'gdal'; expected one of 'auto', 'pil', 'cv2'"):
        ImageFolder(tmp_path, decoder='gdal')
    for name in set(DECODERS) - set(SCALING):
        monkeypatch.setattr(decoders, '_tifffile', lambda: None)
        with pytest.raises(ValueError, match=rf"decode_size is 8 with decoder='{name}'.* 'auto' or 'turbojpeg'"):
            ImageFolder(tmp_path, decoder=name, decode_size=8)
    cv2.imwrite(str(tmp_path / 'x.png'), noise(30, 40, kind=np.uint16))
    with pytest.raises(ValueError, match=r"cache='decoded' keeps RGB images of 8 bits, but .*x\.png has 1 channels"):
        ImageFolder(tmp_path, decoder='cv2', cache='decoded')
    for name in ('turbojpeg', 'tifffile'):
        monkeypatch.undo()
        monkeypatch.setitem(sys.modules, name, None)
        getattr(decoders, f'_{name}').cache_clear()
        with pytest.raises(ImportError, match=rf"dataset\.decoder='{name}' needs the package .*pip install"):
            ImageFolder(tmp_path, decoder=name)


class Library:
    """PyTurboJPEG's, which notes the scale that it is asked for."""

    scaling_factors = frozenset({(2, 1), (7, 4), (1, 1), (7, 8), (3, 4), (5, 8), (1, 2), (3, 8), (1, 4), (1, 8)})

    def decode_header(self, data: bytes) -> tuple[int, int, str, int]:
        with Image.open(io.BytesIO(data)) as image:
            return (*image.size, '422', 1)

    def decode(self, data: bytes, pixel_format: int, scaling_factor: tuple[int, int] | None) -> np.ndarray:
        width, height = self.decode_header(data)[:2]
        n, d = scaling_factor or (1, 1)
        return np.zeros((-(-height * n // d), -(-width * n // d), 3), np.uint8)


def test_turbojpeg_scales_as_simplejpeg_does(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('simplejpeg', reason='needs the package simplejpeg')
    module = SimpleNamespace(TurboJPEG=Library, TJCS_CMYK=3, TJCS_YCCK=4, TJPF_RGB=0)
    monkeypatch.setitem(sys.modules, 'turbojpeg', module)
    decoders._turbojpeg.cache_clear()
    for size in ((400, 300), (401, 299)):
        data = encoded(photo(size), 'JPEG')
        for least in (1, 37, 38, 39, 75, 76, 112, 113, 150, 151, 299, 500):
            assert pixels(data, 'turbojpeg', least=least).shape == pixels(data, 'auto', least=least).shape
    decoders._turbojpeg.cache_clear()


def test_a_library_that_pyturbojpeg_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeError('Unable to locate turbojpeg library automatically.\nInstall it.')

    monkeypatch.setitem(sys.modules, 'turbojpeg', SimpleNamespace(TurboJPEG=missing))
    decoders._turbojpeg.cache_clear()
    with pytest.raises(ImportError, match=r'cannot use libturbojpeg \(Unable to locate.*automatically\.\)\. Install'):
        decoders.check_decoder('turbojpeg')
    decoders._turbojpeg.cache_clear()


def test_images_of_16_bits_become_views(tmp_path: Path) -> None:
    image = noise(20, 30, 4, kind=np.uint16)
    cv2.imwrite(str(tmp_path / 'x.png'), image)
    views = dict(type='MultiView', num_views=1, transforms=[dict(type='CenterCrop', size=16)])
    dataset = DATASETS.build(dict(type='ImageFolder', data_root=tmp_path, decoder='cv2', pipeline=views))
    view = dataset[0]['inputs'][0]
    assert view.dtype == torch.float32
    expected = torch.from_numpy(image[2:18, 7:23, [2, 1, 0, 3]].astype(np.float32)).permute(2, 0, 1)
    torch.testing.assert_close(view, expected, rtol=2**-20, atol=0)
