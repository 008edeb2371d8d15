"""Several views of an image by the transforms of a recipe, one image or a batch at a time."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torchvision.transforms as tv
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from unmix.datasets.samplers import SampleKey, streams
from unmix.datasets.transforms.backends import finished, kernel, write_views
from unmix.datasets.transforms.deferred import DeferredViews, Kind
from unmix.datasets.transforms.images import COLOURS, check_units, to_floats, to_pil, to_tensor
from unmix.datasets.transforms.named import Reader, Transform, build_transform, split_reader, steps
from unmix.datasets.transforms.recipe import Recipe
from unmix.registry import TRANSFORMS
from unmix.utils.rng import preserved, reseed, uniforms

BACKENDS = ('auto', 'numba', 'torch', 'pil')
DTYPES = {'uint8': torch.uint8, 'float32': torch.float32, 'bfloat16': torch.bfloat16}


@TRANSFORMS.register_module()
class MultiView:
    """Several views of one image, by the same transforms with their own random numbers.

    The numbers are a function of (seed, epoch, index, view). The transforms of :class:`Recipe` are drawn at once and
    applied in one pass, without rounding between them, the same draws by each backend; docs/speed.md measures how far
    this is from torchvision's own 8 bits. Other transforms are applied one after the other, to PIL images where an
    image has 8 bits and 1 or 3 channels, and else to tensors; see :class:`unmix.datasets.transforms.named.Step`.

    Images have any number of channels; changes of colour are for 1 or 3. Images of another type than uint8 keep their
    values: their views are float32, also with ``dtype='uint8'``, by torch.

    Args:
        transforms: Configs of transforms by the name of torchvision (``RandomAffine``, of its v2 ``v2.RandomAffine``,
            where a class here has the name ``torchvision/RandomErasing``) or of mmcv (``mmcv.RandomFlip``), or
            callables. ``mmcv.LoadImageFromFile`` as the first one is not applied to images: it says how a data set of
            files decodes them.
        num_views: Number of views V.
        first_view: Number of the first one, where others come before; see :class:`MultiCrop`.
        backend: 'numba', 'torch', 'pil' (torchvision on PIL images: the reference), or 'auto': numba, or torch where it
            does not work or the images are on another device, or PIL where the transforms are others. With 'torch' the
            batches of a data set are :class:`DeferredViews`: workers decode, the model's device makes the views.
        dtype: 'uint8' (rounded), 'float32' or 'bfloat16'.
        mean: With ``std``, views are ``(view - mean) / std``, in units of 0 to 255, one value or one for each channel;
            ``data_preprocessor`` should not do so once more then.
        std: See ``mean``.

    Attributes:
        reader: What decodes the files of the data set, if the first transform does; None otherwise.

    Raises:
        ValueError: If backend or dtype is none of these, or do not fit to transforms or mean; later, if a transform
            does not work on an image.
    """

    def __init__(
        self,
        transforms: Sequence[dict[str, Any] | Transform],
        num_views: int = 2,
        first_view: int = 0,
        backend: str = 'auto',
        dtype: str = 'uint8',
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
    ) -> None:
        name = type(self).__name__
        if backend not in BACKENDS or dtype not in DTYPES:
            raise ValueError(
                f'{name}: backend={backend!r}, dtype={dtype!r}; expected one of {", ".join(BACKENDS)} and of '
                f'{", ".join(DTYPES)}.'
            )
        if (mean is None) != (std is None) or (mean is not None and dtype == 'uint8'):
            raise ValueError(
                f"{name}: mean={mean}, std={std}, dtype={dtype!r}; give both or none, and with dtype='float32' or "
                "'bfloat16'."
            )
        self.reader, built = split_reader([build_transform(cfg) for cfg in transforms])
        self.transforms = tv.Compose(built)
        self.recipe: Recipe | None = None
        try:
            self.recipe = Recipe(self.transforms.transforms)
        except NotImplementedError as error:
            if backend in ('numba', 'torch'):
                raise ValueError(f"{name}: backend={backend!r} cannot do {error}; use 'auto' or 'pil'.") from error
            backend = 'pil'
        self.steps = tv.Compose(steps(self.transforms.transforms))
        self.num_views = num_views
        self.first_view = first_view
        self.backend = backend
        self.deferred = backend == 'torch'  # whether data sets leave the views of a batch to the model's device
        self.dtype = DTYPES[dtype]
        self.mean = np.asarray(0 if mean is None else mean, np.float32)
        self.scale = np.float32(1) / np.asarray(1 if std is None else std, np.float32)

    @property
    def fused(self) -> bool:
        """Whether whole batches can be made."""
        return self.recipe is not None

    def prepare(self) -> None:
        """Compile what is to be compiled, so that workers do not have to; see ``backend``.

        Raises:
            ValueError: If numba is asked for and does not work.
        """
        if self.recipe is None:
            return
        if self.backend == 'auto':
            self.backend = 'torch' if kernel() is None else 'numba'
        elif self.backend == 'numba' and kernel() is None:
            raise ValueError("backend='numba', but numba does not work here; use 'auto' or 'torch'.")

    def type_of(self, image: Tensor) -> torch.dtype:
        """Return the type of the views of an image."""
        return torch.float32 if self.dtype == torch.uint8 != image.dtype else self.dtype

    def empty(self, num: int, image: Tensor) -> list[Tensor]:
        """Return room for the views of ``num`` images such as ``image`` (C, H, W): V tensors (N, C, h, w).

        It is on the device of the image, and in shared memory if in a worker.
        """
        assert self.recipe is not None
        shape, dtype = (self.num_views, num, image.shape[0], *self.recipe.size), self.type_of(image)
        if get_worker_info() is not None:
            views = torch.empty(shape, dtype=dtype).share_memory_()
        elif image.device.type != 'cpu':
            views = torch.empty(shape, dtype=dtype, device=image.device)
        else:  # NumPy asks the system for huge pages, so that fewer of them have to be looked up, or got anew
            memory = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
            views = torch.from_numpy(memory).view(dtype).view(shape)
        return list(views.unbind())

    def batch(
        self, images: Tensor | Sequence[Tensor], keys: Sequence[SampleKey], out: list[Tensor] | None = None
    ) -> Any:
        """Return the views of a batch, V tensors (N, C, h, w): in ``out``, made by :meth:`empty`, if it is given.

        Args:
            images: Images (N, C, H, W), on any device, or N images (C, H, W) of any sizes.
            keys: Their keys, of one seed and epoch.
            out: Where to write.

        Raises:
            ValueError: If the images differ in type or number of channels, or the keys in seed or epoch, or a change of
                colour does not fit the images.
        """
        self.prepare()
        pixels: Any = images if isinstance(images, Tensor) else list(images)
        out = self.empty(len(keys), pixels[0]) if out is None else out
        channels = pixels[0].shape[-3] if pixels[0].ndim > 2 else 0
        if (self.type_of(pixels[0]), channels) != (out[0].dtype, out[0].shape[1]):
            raise ValueError(_not_alike({(pixels[0].dtype, channels)}, out[0].shape[1]))
        pixels, kind = self.plan(pixels, keys)
        for view, target in enumerate(out):
            draws = kind.draws.rows(slice(view * len(keys), (view + 1) * len(keys)))
            write_views(self.backend, pixels, draws, target, self.mean, self.scale)
        return out

    def plan(self, images: Tensor | Sequence[Tensor], keys: Sequence[SampleKey]) -> tuple[Any, Kind]:
        """Return the images of a batch, checked, as uint8 or float32, and how the V views of each are made.

        Arguments and errors are those of :meth:`batch`.
        """
        assert self.recipe is not None
        parts: Any = [images] if isinstance(images, Tensor) else images
        kinds = {(image.dtype, image.shape[-3] if image.ndim > 2 else 0) for image in parts}
        if len(kinds) > 1:
            raise ValueError(_not_alike(kinds, parts[0].shape[0]))
        self._check_colours(parts)
        pixels = images
        if parts[0].dtype != torch.uint8:
            pixels = to_floats(images) if isinstance(images, Tensor) else [to_floats(image) for image in images]
        sizes = np.array([image.shape[-2:] for image in parts])
        sizes = np.tile(sizes, (len(keys), 1)) if isinstance(images, Tensor) else sizes
        num, stream = len(keys), streams(keys)
        numbered = range(self.first_view, self.first_view + self.num_views)
        of_views = [np.broadcast_to(np.asarray(stream('views', view), np.uint64), num) for view in numbered]
        index = np.tile([key.index for key in keys], self.num_views)
        numbers = uniforms(np.concatenate(of_views), index, self.recipe.columns)
        draws = self.recipe.draw(numbers, np.tile(sizes, (self.num_views, 1)))
        return pixels, Kind(draws, self.num_views, self.type_of(parts[0]), self.mean, self.scale)

    def defer(self, images: Tensor | Sequence[Tensor], keys: Sequence[SampleKey]) -> DeferredViews:
        """Return what a device makes the views of a batch of. Arguments and errors are those of :meth:`batch`."""
        pixels, kind = self.plan(images, keys)
        return DeferredViews.of(pixels, [kind])

    def _check_colours(self, images: Sequence[Tensor]) -> None:
        """Check that the changes of colour of the recipe fit the images (..., C, H, W)."""
        if self.recipe is None or not self.recipe.colours:
            return
        changes = ', '.join(self.recipe.colours)
        if images[0].shape[-3] not in COLOURS:
            raise ValueError(
                f'dataset.pipeline.transforms: {changes} is for images of 1 or 3 channels, and the data set gives '
                f'{images[0].shape[-3]}. Take it out of the pipeline.'
            )
        try:
            for image in images:
                if image.dtype != torch.uint8:
                    check_units(image)
        except ValueError as error:
            raise ValueError(f'dataset.pipeline.transforms: {changes}: {error}.') from error

    def __call__(self, image: Image.Image | Tensor, key: SampleKey) -> Any:
        """Return the views of an image: list of V tensors (C, h, w)."""
        if self.recipe is not None:
            return [view[0] for view in MultiView.batch(self, [to_tensor(image)], [key])]
        if not isinstance(image, Image.Image) or image.mode not in ('RGB', 'L'):
            image = to_tensor(image)
            if image.dtype != torch.uint8:
                image = to_floats(image)
            elif image.shape[0] in COLOURS:
                image = to_pil(image)
        views = []
        # Restoring costs more than seeding, and in a worker nothing else draws.
        with preserved() if get_worker_info() is None else nullcontext():
            for view in range(self.first_view, self.first_view + self.num_views):
                reseed('augmentation', key.seed, key.epoch, key.index, view)
                made = to_tensor(self.steps(image))
                views.append(finished(made, self.type_of(made), self.mean, self.scale))
        return views


@TRANSFORMS.register_module()
class SingleView(MultiView):
    """One view, as a tensor: for evaluation, or supervised training. Arguments are those of :class:`MultiView`.

    Workers make it, also with ``backend='torch'``.
    """

    def __init__(self, transforms: Sequence[dict[str, Any] | Transform], **kwargs: Any) -> None:
        super().__init__(transforms, num_views=1, **kwargs)
        self.deferred = False

    def batch(
        self, images: Tensor | Sequence[Tensor], keys: Sequence[SampleKey], out: list[Tensor] | None = None
    ) -> Any:
        """Return the view of each image: (N, C, h, w)."""
        return super().batch(images, keys, out)[0]

    def __call__(self, image: Image.Image | Tensor, key: SampleKey) -> Tensor:
        """Return the view of an image: (C, h, w)."""
        view: Tensor = super().__call__(image, key)[0]
        return view


@TRANSFORMS.register_module()
class MultiCrop:
    """Views of several kinds, such as 2 large and 6 small crops (`SwAV <https://arxiv.org/abs/2006.09882>`_, Sec. 3.2).

    Views are numbered through all kinds, and each draws its own random numbers. An image is decoded once for all kinds:
    ``mmcv.LoadImageFromFile`` is the first transform of the first kind, and may be the same in others.

    Args:
        crops: One dict of ``num_views`` and ``transforms``, the arguments of :class:`MultiView`, for each kind.
        **kwargs: Arguments of :class:`MultiView` for all kinds, such as ``backend``.

    Raises:
        ValueError: If there is no kind, or another than the first decodes files in a way of its own.
    """

    def __init__(self, crops: Sequence[dict[str, Any]], **kwargs: Any) -> None:
        if not crops:
            raise ValueError('MultiCrop.crops is empty; give a dict of num_views and transforms for each kind of crop.')
        self.kinds: list[MultiView] = []
        for crop in crops:
            self.kinds.append(MultiView(**(kwargs | crop), first_view=self.num_views))
        for number, kind in enumerate(self.kinds):
            if kind.reader is not None and (self.reader is None or vars(kind.reader) != vars(self.reader)):
                raise ValueError(
                    f'MultiCrop.crops.{number}.transforms.0 is LoadImageFromFile, which decodes the files for all '
                    'kinds. Give it to the first kind, and to others with the same arguments or not at all.'
                )

    @property
    def reader(self) -> Reader | None:
        """What decodes the files of the data set, for all kinds: that of the first."""
        return self.kinds[0].reader

    @property
    def num_views(self) -> int:
        """Number of views of all kinds."""
        return sum(kind.num_views for kind in self.kinds)

    @property
    def fused(self) -> bool:
        """Whether whole batches can be made."""
        return all(kind.fused for kind in self.kinds)

    @property
    def deferred(self) -> bool:
        """Whether data sets leave the views of a batch to the model's device."""
        return all(kind.deferred for kind in self.kinds)

    def defer(self, images: Tensor | Sequence[Tensor], keys: Sequence[SampleKey]) -> DeferredViews:
        """Return what a device makes the views of a batch of; see :meth:`MultiView.defer`."""
        plans = [kind.plan(images, keys) for kind in self.kinds]
        return DeferredViews.of(plans[0][0], [kind for _, kind in plans])

    def prepare(self) -> None:
        """Compile what is to be compiled, so that workers do not have to."""
        for kind in self.kinds:
            kind.prepare()

    def empty(self, num: int, image: Tensor) -> list[Tensor]:
        """Return room for the views of ``num`` images such as ``image``."""
        return [view for kind in self.kinds for view in kind.empty(num, image)]

    def batch(
        self, images: Tensor | Sequence[Tensor], keys: Sequence[SampleKey], out: list[Tensor] | None = None
    ) -> list[Tensor]:
        """Return the views of a batch, each (N, C, h, w); see :meth:`MultiView.batch`."""
        return [
            view
            for kind in self.kinds
            for view in kind.batch(
                images, keys, None if out is None else out[kind.first_view : kind.first_view + kind.num_views]
            )
        ]

    def __call__(self, image: Image.Image | Tensor, key: SampleKey) -> list[Tensor]:
        """Return the views of an image, each (C, h, w), in the order of the kinds."""
        return [view for kind in self.kinds for view in kind(image, key)]


def _not_alike(kinds: set[tuple[torch.dtype, int]], channels: int) -> str:
    """Return what is wrong with images of several types or numbers of channels."""
    found = ', '.join(f'{channels} ({dtype})' for dtype, channels in sorted(kinds, key=str))
    return f'The images of a batch have {found} channels, and the first one has {channels}; load all alike.'
