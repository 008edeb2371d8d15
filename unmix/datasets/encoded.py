"""Data sets of encoded images (JPEG, PNG, ...), wherever their bytes come from, and which of them stay in memory."""

import os
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, resize

from unmix.datasets.archive import Archive, FolderFiles
from unmix.datasets.base import BaseDataset, Pipeline
from unmix.datasets.broken import GIVE_UP
from unmix.datasets.caches import CACHES, HostCache
from unmix.datasets.decode import BrokenImage, decode_image, unreadable
from unmix.datasets.decoders import STORED, check_decoder
from unmix.utils.names import shown

CHANNELS = 3  # of the images that a cache keeps decoded


class Files(Protocol):
    """Encoded images, by number."""

    def place(self, number: int) -> bytes:
        """Return where an image lies, for messages."""

    def read(self, number: int) -> bytes:
        """Return the bytes of an image; raise ``BrokenImage`` if they cannot be read."""

    def evidence(self, number: int) -> bytes:
        """Return :func:`unmix.datasets.evidence.evidence` of an image."""

    def sizes(self) -> Any:
        """Return the bytes of each image, (N,) int64."""

    def source(self) -> bytes:
        """Return a digest of where the images are, and of the state of their files as far as it is known."""


class EncodedDataset(BaseDataset):
    """Images of :class:`Files`, as RGB, or by ``decoder`` as they are stored; a subclass calls :meth:`use`.

    Args:
        pipeline: As for :class:`BaseDataset`.
        decode_size: Decode JPEGs of twice this size and more at a half to an eighth of theirs, but no side below it:
            faster for large photographs, not bit-equal; see :func:`decode_image`.
        exif: Turn photographs upright, as their EXIF orientation says. The released codes of the methods do not.
        broken: As for :class:`BaseDataset`.
        cache: What is kept in memory, one copy on a host for all ranks and workers, and for all data sets of a process
            that have the same files and options, such as the training set and the bank of the evaluation. ``'none'``;
            ``'full'``: the bytes of all files; ``'part'``: of those whose number i is r modulo the number of ranks, for
            each rank r of the host (``--cache-mode part`` of PIC; with ``EpochSampler(part=True)`` rank r takes no
            others, else these are read from the files); ``'decoded'``: the pixels, uint8, of all images, if small.
        cache_size: Side of the images that ``'decoded'`` keeps: the shorter side is resized to it (bilinear,
            antialiased), and the centre is cropped. Images of that size stay as they are. None: that of the first
            image that can be read.
        decoder: What decodes the files: 'auto', 'pil', 'cv2', 'turbojpeg' or 'tifffile'; see :func:`decode_image`.
        backend_args: Where the files are: arguments of a file backend of MMEngine, with its name as ``backend``, such
            as ``dict(backend='lmdb', db_path='train.lmdb')``; see :class:`~unmix.datasets.storage.Storage`. None: on
            this machine, or what the prefix of the address says (``http://``).

    Attributes:
        files: Where the bytes of the images come from.
        paths: (N,) bytes, names of the images.

    Raises:
        ImportError: If the package of the decoder or backend is not installed.
        ValueError: If ``cache`` is another, does not go with ``cache_size``, or does not fit into the memory; if there
            is no such decoder or backend, or the decoder cannot do what ``decode_size`` or ``cache`` asks for.
    """

    decodes: ClassVar[bool] = True
    files: Files
    paths: np.ndarray

    def __init__(
        self,
        pipeline: dict[str, Any] | Pipeline | None = None,
        decode_size: int | None = None,
        exif: bool = True,
        broken: str = 'error',
        cache: str = 'none',
        cache_size: int | None = None,
        decoder: str = 'auto',
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(pipeline, broken)
        check_decoder(decoder, decode_size)
        if cache not in CACHES:
            raise ValueError(f'dataset.cache is {cache!r}; expected one of {", ".join(map(repr, CACHES))}.')
        if cache_size is not None and (cache != 'decoded' or cache_size < 1):
            raise ValueError(
                f'dataset.cache_size is {cache_size} with cache={cache!r}; it is the side, from 1, of the images that '
                "cache='decoded' keeps."
            )
        if cache != 'none' and not hasattr(os, 'pread'):
            raise ValueError(f"dataset.cache is {cache!r}, which this system has no means for. Set it to 'none'.")
        self.decode_size, self.exif, self.cache, self.cache_size = decode_size, exif, cache, cache_size
        self.decoder, self.backend_args = decoder, backend_args
        self._reader = getattr(self.pipeline, 'reader', None)
        if self._reader is not None:
            self._check_reader()
        self._kept: HostCache | None = None

    def _check_reader(self) -> None:
        """Take the ``backend_args`` of ``LoadImageFromFile`` in the pipeline, and refuse keys that it replaces."""
        reader: Any = self._reader
        keys = dict(decoder=self.decoder, decode_size=self.decode_size)
        given = [f'{key}={value!r}' for key, value in keys.items() if value not in ('auto', None)]
        if reader.upright and not self.exif:
            given.append("exif=False (it has color_type='color_ignore_orientation' for that)")
        if self.backend_args is not None and reader.backend_args not in (None, self.backend_args):
            given.append(f'backend_args={self.backend_args}')
        if given:
            raise ValueError(
                f'dataset.{", ".join(given)}, but LoadImageFromFile, the first transform of dataset.pipeline, decodes '
                'the files as its own arguments say. Give one of both.'
            )
        self.backend_args = reader.backend_args or self.backend_args

    def use(self, files: Files) -> None:
        """Take images from ``files``, and fill the cache."""
        self.files = files
        what = f"dataset.cache='{self.cache}'"
        if self.cache == 'decoded':
            height, width = (self.cache_size,) * 2 if self.cache_size else self._first_size()
            self._shape = (int(height), int(width), CHANNELS)
            sizes = torch.full((len(self),), height * width * CHANNELS).numpy()
            options = (self.cache_size, self.decode_size, self.exif, self.decoder, self._reader and id(self._reader))
            self._kept = HostCache.of((files.source(), options), sizes, self._pixels, False, what)
        elif self.cache != 'none':
            self._sizes = files.sizes()
            self._kept = HostCache.of(files.source(), self._sizes, self._bytes, self.cache == 'part', what)

    def _first_size(self) -> tuple[int, int]:
        """Return height and width of the first image that can be read.

        Raises:
            BrokenImage: If none can, of so many that their disk or server is gone.
        """
        failed: list[BrokenImage] = []
        for index in range(min(len(self), GIVE_UP)):
            try:
                height, width = self._decode(index).shape[1:]
            except BrokenImage as error:
                failed.append(error)
            else:
                return height, width
        raise BrokenImage(
            f"dataset.cache='decoded': the first {len(failed)} images cannot be read, so that their size is not known. "
            f'Is their disk or server there? {failed[0]}'
        )

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, index: int) -> tuple[Tensor, int | None]:
        """Return an image and its label."""
        label = None if self.labels is None else int(self.labels[index])
        data = None if self._kept is None else self._kept.get(index)
        if data is not None and self.cache == 'decoded':
            return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(self._shape).permute(2, 0, 1), label
        return self._decode(index, data), label

    def _decode(self, index: int, data: bytes | None = None) -> Tensor:
        data = self.files.read(index) if data is None else data
        place = self.files.place(index)
        if self._reader is None:
            image = decode_image(place, self.decode_size, self.exif, data, self.decoder)
        else:
            try:
                image = self._reader(data)
            except ValueError as error:
                raise unreadable(place, error) from error
        if self.cache == 'decoded' and (image.dtype != torch.uint8 or image.shape[0] != CHANNELS):
            raise ValueError(
                f"dataset.cache='decoded' keeps RGB images of 8 bits, but {shown(place)} has "
                f'{image.shape[0]} channels ({image.dtype}) by decoder={self.decoder!r}. Set '
                "dataset.cache='full'."
            )
        return image if self.cache_size is None else _square(image, self.cache_size)

    def _bytes(self, index: int) -> bytes | None:
        """Return the bytes of an image; None if they cannot be read, which :meth:`load` will say."""
        try:
            data = self.files.read(index)
        except BrokenImage:
            return None
        if len(data) != self._sizes[index]:
            raise ValueError(
                f'The image {shown(self.files.place(index))} has changed while it was read: it had '
                f'{self._sizes[index]} bytes and has {len(data)} now. Start the run when all images are there.'
            )
        return data

    def _pixels(self, index: int) -> bytes | None:
        """Return the pixels of an image; None as above."""
        try:
            image = self._decode(index)
        except BrokenImage:
            return None
        pixels = image.permute(1, 2, 0).contiguous()
        if pixels.shape != self._shape:
            raise ValueError(
                f"dataset.cache='decoded': the image {shown(self.files.place(index))} has {image.shape[2]} x "
                f'{image.shape[1]} pixels, the first {self._shape[1]} x {self._shape[0]}. Set dataset.cache_size to '
                'the side of the squares that all images are to become.'
            )
        return pixels.numpy().tobytes()

    def encoded(self, index: int) -> bytes | None:
        """Return the bytes of a file; None where its pixels are others than those of PIL."""
        if self.decoder in STORED or self._reader is not None:
            return None
        try:
            return self.files.read(index)
        except BrokenImage as error:
            raise error.__cause__ if isinstance(error.__cause__, OSError) else error from None

    def examined(self) -> str:
        """Return the folder or archive, if the doctor reads its files as this data set does."""
        root = getattr(self, 'data_root', None)
        own = not isinstance(self.files, FolderFiles | Archive) or self.decoder in STORED or self._reader is not None
        return 'CONFIG' if own or root is None or not os.path.exists(root) else shown(root)

    @property
    def upright(self) -> bool:
        """Whether photographs are turned upright, by the data set or by ``LoadImageFromFile``."""
        return self.exif if self._reader is None else bool(self._reader.upright)

    def content(self, index: int) -> bytes:
        """Return parts of the file."""
        return self.files.evidence(index)


def _square(image: Tensor, size: int) -> Tensor:
    if image.shape[1:] == (size, size):
        return image
    squares = center_crop(resize(image, [size], antialias=True), [size, size])
    return squares.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # in memory as decoded images are
