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

from unmix.datasets.samplers import SampleKey, one_run
from unmix.datasets.transforms.backends import finished, kernel, write_views
from unmix.datasets.transforms.images import Transform, build_transform, to_bytes, to_pil, to_tensor
from unmix.datasets.transforms.recipe import Recipe
from unmix.registry import TRANSFORMS
from unmix.utils.rng import preserved, reseed, stream, uniforms

BACKENDS = ('auto', 'numba', 'torch', 'pil')
DTYPES = {'uint8': torch.uint8, 'float32': torch.float32, 'bfloat16': torch.bfloat16}


@TRANSFORMS.register_module()
class MultiView:
    """Several views of one image, by the same transforms with their own random numbers.

    The numbers are a function of (seed, epoch, index, view). The transforms of :class:`Recipe` are drawn at once and
    applied in one pass, without rounding between them, the same draws by each backend; docs/speed.md measures how far
    this is from torchvision's own 8 bits. Other transforms are applied one after the other to PIL images.

    Args:
        transforms: Configs of torchvision's transforms, or callables.
        num_views: Number of views V.
        first_view: Number of the first one, where others come before; see :class:`MultiCrop`.
        backend: 'numba', 'torch', 'pil' (torchvision on PIL images: the reference), or 'auto': numba, or torch where it
            does not work or the images are on another device, or PIL where the transforms are others.
        dtype: 'uint8' (rounded), 'float32' or 'bfloat16'.
        mean: With ``std``, views are ``(view - mean) / std``, in units of 0 to 255, one value or one for each channel;
            ``data_preprocessor`` should not do so once more then.
        std: See ``mean``.

    Raises:
        ValueError: If backend or dtype is none of these, or do not fit to transforms or mean.
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
        self.transforms = tv.Compose([build_transform(cfg) for cfg in transforms])
        self.recipe: Recipe | None = None
        try:
            self.recipe = Recipe(self.transforms.transforms)
        except NotImplementedError as error:
            if backend in ('numba', 'torch'):
                raise ValueError(f"{name}: backend={backend!r} cannot do {error}; use 'auto' or 'pil'.") from error
            backend = 'pil'
        self.num_views = num_views
        self.first_view = first_view
        self.backend = backend
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

    def empty(self, num: int, channels: int, device: torch.device | None = None) -> list[Tensor]:
        """Return room for the views of ``num`` images, V tensors (N, C, h, w), in shared memory if in a worker."""
        assert self.recipe is not None
        shape = (self.num_views, num, channels, *self.recipe.size)
        if get_worker_info() is not None:
            views = torch.empty(shape, dtype=self.dtype).share_memory_()
        elif device is not None and device.type != 'cpu':
            views = torch.empty(shape, dtype=self.dtype, device=device)
        else:  # NumPy asks the system for huge pages, so that fewer of them have to be looked up, or got anew
            memory = np.empty(math.prod(shape) * self.dtype.itemsize, np.uint8)
            views = torch.from_numpy(memory).view(self.dtype).view(shape)
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
            ValueError: If the images differ in the number of channels, or the keys in seed or epoch.
        """
        assert self.recipe is not None
        self.prepare()
        pixels: Any
        if isinstance(images, Tensor):
            pixels = to_bytes(images)
            sizes, channels = np.tile(pixels.shape[2:], (len(keys), 1)), {pixels.shape[1]}
        else:
            pixels = [to_bytes(image) for image in images]
            sizes, channels = np.array([image.shape[1:] for image in pixels]), {image.shape[0] for image in pixels}
        out = self.empty(len(keys), pixels[0].shape[0], pixels[0].device) if out is None else out
        if channels != {out[0].shape[1]}:
            raise ValueError(
                f'The images of a batch have {sorted(channels | {out[0].shape[1]})} channels; load all alike.'
            )
        purpose, num = ('views', *one_run(keys)), len(keys)
        streams = [stream(*purpose, view) for view in range(self.first_view, self.first_view + self.num_views)]
        index = np.tile([key.index for key in keys], self.num_views)
        numbers = uniforms(np.repeat(np.array(streams, np.uint64), num), index, self.recipe.columns)
        draws = self.recipe.draw(numbers, np.tile(sizes, (self.num_views, 1)))
        for view, target in enumerate(out):
            part = draws.rows(slice(view * num, (view + 1) * num))
            write_views(self.backend, pixels, part, target, self.mean, self.scale)
        return out

    def __call__(self, image: Image.Image | Tensor, key: SampleKey) -> Any:
        """Return the views of an image: list of V tensors (C, h, w)."""
        if self.recipe is not None:
            return [view[0] for view in MultiView.batch(self, [to_tensor(image)], [key])]
        image = to_pil(image)
        views = []
        # Restoring costs more than seeding, and in a worker nothing else draws.
        with preserved() if get_worker_info() is None else nullcontext():
            for view in range(self.first_view, self.first_view + self.num_views):
                reseed('augmentation', key.seed, key.epoch, key.index, view)
                views.append(finished(to_tensor(self.transforms(image)), self.dtype, self.mean, self.scale))
        return views


@TRANSFORMS.register_module()
class SingleView(MultiView):
    """One view, as a tensor: for evaluation, or supervised training. Arguments are those of :class:`MultiView`."""

    def __init__(self, transforms: Sequence[dict[str, Any] | Transform], **kwargs: Any) -> None:
        super().__init__(transforms, num_views=1, **kwargs)

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

    Views are numbered through all kinds, and each draws its own random numbers.

    Args:
        crops: One dict of ``num_views`` and ``transforms``, the arguments of :class:`MultiView`, for each kind.
        **kwargs: Arguments of :class:`MultiView` for all kinds, such as ``backend``.

    Raises:
        ValueError: If there is no kind.
    """

    def __init__(self, crops: Sequence[dict[str, Any]], **kwargs: Any) -> None:
        if not crops:
            raise ValueError('MultiCrop.crops is empty; give a dict of num_views and transforms for each kind of crop.')
        self.kinds: list[MultiView] = []
        for crop in crops:
            self.kinds.append(MultiView(**(kwargs | crop), first_view=self.num_views))

    @property
    def num_views(self) -> int:
        """Number of views of all kinds."""
        return sum(kind.num_views for kind in self.kinds)

    @property
    def fused(self) -> bool:
        """Whether whole batches can be made."""
        return all(kind.fused for kind in self.kinds)

    def prepare(self) -> None:
        """Compile what is to be compiled, so that workers do not have to."""
        for kind in self.kinds:
            kind.prepare()

    def empty(self, num: int, channels: int) -> list[Tensor]:
        """Return room for the views of ``num`` images."""
        return [view for kind in self.kinds for view in kind.empty(num, channels)]

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
