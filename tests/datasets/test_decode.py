"""Image files to pixels, by simplejpeg where it can and by PIL where it cannot."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from unmix.datasets import ImageFolder, decode, decode_image, read_image

SIZES = [(40, 30), (33, 21), (8, 8), (1, 1)]


def photo(size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize('size', SIZES)
def test_jpegs_are_decoded_to_pils_bytes(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any quality, subsampling and order, grey ones too, and not by PIL."""
    expected = {}
    for mode in ('RGB', 'L'):
        for subsampling in (0, 1, 2):
            for progressive in (False, True):
                path = tmp_path / f'{mode}{subsampling}{progressive}.jpg'
                photo(size).convert(mode).save(
                    path, quality=60 + 15 * subsampling, subsampling=subsampling, progressive=progressive
                )
                expected[path] = np.asarray(read_image(path))
    monkeypatch.setattr(decode, 'read_image', None)
    for path, pixels in expected.items():
        found = decode_image(path)
        assert found.dtype == torch.uint8
        assert torch.equal(found.permute(1, 2, 0), torch.from_numpy(pixels.copy()))


def test_other_files_are_pils(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CMYK, palettes, transparency, a JPEG with the name of a PNG, and JPEG where simplejpeg is missing."""
    photo((20, 30)).convert('CMYK').save(tmp_path / 'cmyk.jpg')
    photo((20, 30)).convert('P').save(tmp_path / 'palette.png')
    photo((20, 30)).convert('RGBA').save(tmp_path / 'clear.png')
    photo((20, 30)).save(tmp_path / 'named.png', 'JPEG')
    for without in (False, True):
        if without:
            monkeypatch.setattr(decode, 'simplejpeg', None)
        for path in tmp_path.iterdir():
            expected = torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)
            assert torch.equal(decode_image(path), expected)


def test_bad_files_are_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    photo((64, 64)).save(buffer, 'JPEG')
    for name, data in (('half.jpg', buffer.getvalue()[:500]), ('empty.jpg', b''), ('text.jpg', b'\xff\xd8 no image')):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf'The image .*{name} cannot be read .*Replace or delete'):
            decode_image(tmp_path / name)
    with pytest.raises(ValueError, match=r'none\.jpg cannot be read'):
        decode_image(tmp_path / 'none.jpg')


def test_of_16_bits_the_upper_8_count(tmp_path: Path) -> None:
    grey = np.arange(0, 2**16, 64, dtype=np.uint16).reshape(32, 32)
    Image.fromarray(grey).save(tmp_path / 'deep.png')
    assert np.array_equal(decode_image(tmp_path / 'deep.png'), np.stack([grey // 256] * 3))
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / 'float.tif')
    with pytest.raises(
        ValueError, match=r'float\.tif cannot be read \(its values are of mode F; expected 8 or 16 bits'
    ):
        decode_image(tmp_path / 'float.tif')


def test_huge_images_are_left_to_pil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo((40, 40)).save(tmp_path / 'bomb.jpg')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 500)
    with pytest.raises(ValueError, match=r'bomb\.jpg cannot be read .*decompression bomb'):
        decode_image(tmp_path / 'bomb.jpg')


def test_scaled_decoding_is_a_smaller_image_that_is_large_enough(tmp_path: Path) -> None:
    photo((400, 300)).save(tmp_path / 'large.jpg', quality=95, subsampling=0)
    full = photo((400, 300))
    for least, size in ((200, (300, 400)), (150, (150, 200)), (100, (113, 150)), (38, (38, 50)), (10, (38, 50))):
        image, _ = ImageFolder(tmp_path, decode_size=least).load(0)
        assert tuple(image.shape[1:]) == size
        expected = np.asarray(full.resize(size[::-1], Image.Resampling.BOX), float)
        assert np.abs(image.permute(1, 2, 0).numpy() - expected).mean() < 3


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tif'])
@pytest.mark.parametrize('fast', [True, False])
def test_photographs_are_turned_upright(
    suffix: str, fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By each of the eight orientations, as PIL's exif_transpose does; or left as stored."""
    if not fast:
        monkeypatch.setattr(decode, 'simplejpeg', None)
    path = tmp_path / f'x.{suffix}'
    for orientation in (*range(1, 9), 0, 9, 65535):
        exif = Image.Exif()
        exif[decode.ORIENTATION] = orientation
        photo((40, 30)).save(path, exif=exif, **(dict(lossless=True) if suffix == 'webp' else {}))
        with Image.open(path) as image:
            upright = np.asarray(ImageOps.exif_transpose(image))
            stored = np.asarray(image)  # PIL turns a TIFF by itself
        assert upright.shape[:2] == ((40, 30) if 5 <= orientation <= 8 else (30, 40))
        assert np.array_equal(decode_image(path).permute(1, 2, 0), upright)
        assert np.array_equal(decode_image(path, exif=False).permute(1, 2, 0), stored)
        assert decode_image(path).permute(1, 2, 0).is_contiguous()
        assert np.array_equal(read_image(path, exif=False), stored)
        assert np.array_equal(ImageFolder(tmp_path, exif=False).load(0)[0].permute(1, 2, 0), stored)


def test_turned_photographs_of_part_of_the_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[decode.ORIENTATION] = 6
    photo((400, 300)).save(tmp_path / 'x.jpg', exif=exif)
    stored = ImageFolder(tmp_path, decode_size=100, exif=False).load(0)[0]
    upright = ImageFolder(tmp_path, decode_size=100).load(0)[0]
    assert (stored.shape, upright.shape) == ((3, 113, 150), (3, 150, 113))
    assert torch.equal(upright, stored.rot90(-1, (1, 2)))


def test_an_orientation_that_is_damaged_or_in_xmp(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[decode.ORIENTATION] = 6
    photo((40, 30)).save(tmp_path / 'x.jpg', exif=exif)
    data = (tmp_path / 'x.jpg').read_bytes()
    stored, start = decode_image(tmp_path / 'x.jpg', exif=False), data.index(b'Exif')
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data)
        for place in rng.integers(start, start + 32, 4):
            damaged[place] = rng.integers(256)
        (tmp_path / 'x.jpg').write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            found = decode_image(tmp_path / 'x.jpg')
        assert torch.equal(found.flatten().sort().values, stored.flatten().sort().values)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    photo((40, 30)).save(tmp_path / 'y.jpg', xmp=xmp)
    assert torch.equal(decode_image(tmp_path / 'y.jpg'), stored.rot90(-1, (1, 2)))


def test_an_orientation_behind_other_segments_and_beside_none(tmp_path: Path) -> None:
    """Behind a thumbnail with pixels of its own, and bytes that fill up; not behind the pixels."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    photo((40, 30)).save(tmp_path / 'x.jpg', xmp=xmp)
    data, stored = (tmp_path / 'x.jpg').read_bytes(), decode_image(tmp_path / 'x.jpg', exif=False)
    turned = stored.rot90(-1, (1, 2))
    thumbnail = b'\xff\xd8\xff\xda\x00\x0cpixels\xff\xd9'
    other = b'\xff\xe5' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    for before in (b'', other, b'\xff\xff' + other[1:], 3 * other):
        assert torch.equal(decode_image('x', data=data[:2] + before + data[2:]), turned)
    photo((40, 30)).save(tmp_path / 'y.jpg')
    plain = (tmp_path / 'y.jpg').read_bytes()
    assert torch.equal(decode_image('x', data=plain + xmp), stored)
    assert decode._before_pixels(plain) == plain.index(b'\xff\xda')
    assert decode._before_pixels(plain[:300]) == 300
