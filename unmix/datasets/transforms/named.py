"""Transforms of one image by name: torchvision's, v1 and v2, and those of mmcv and of toolboxes around it.

Between two transforms an image is a PIL image (8 bits, 1 or 3 channels), a uint8 tensor, or a float tensor (C, H, W) in
the units of the data set. A :class:`Step` gives each transform the form that it takes. All draw from the global
generators, which the views seed for each view of each image.

Images are RGB here and BGR in mmcv, as in OpenCV: :func:`_pixels` and :func:`_image` make one of the other, and nothing
else does.
"""

import copy
import inspect
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, cast

import numpy as np
import torch
import torchvision.transforms as tv
from mmengine.registry import TRANSFORMS as mmengine_transforms
from mmengine.registry import DefaultScope, Registry
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from unmix.datasets.decoders import JPEG, check_end
from unmix.datasets.transforms.blur import PILGaussianBlur
from unmix.datasets.transforms.images import COLOURS, to_bytes, to_floats, to_pil, to_tensor
from unmix.datasets.transforms.torch_form import blurred
from unmix.registry import TRANSFORMS

Transform = Callable[[Any], Any]


def _both(*names: str) -> tuple[type, ...]:
    """Return the classes of these names of torchvision's v1 and v2, as far as this version has them."""
    return tuple(getattr(module, name) for module in (tv, v2) for name in names if hasattr(module, name))


CONTAINERS = _both('Compose', 'RandomApply', 'RandomChoice', 'RandomOrder')
# torchvision takes the colours of a float image as of 0 to 1, and some of these take no floats.
OF_BYTES = _both(
    *('AugMix', 'AutoAugment', 'ColorJitter', 'GaussianNoise', 'JPEG', 'RandAugment', 'RandomAdjustSharpness'),
    *('RandomAutocontrast', 'RandomEqualize', 'RandomInvert', 'RandomPhotometricDistort', 'RandomPosterize'),
    *('RandomSolarize', 'TrivialAugmentWide'),
)
OF_COLOURS = {*OF_BYTES, *_both('Grayscale', 'RandomGrayscale')} - {*_both('GaussianNoise')}  # of 1 or 3 channels
OF_TENSORS = _both('GaussianNoise', 'RandomErasing')
OF_UNIT_INTERVAL = _both('LinearTransformation', 'Normalize')  # their numbers are those of colours of 0 to 1
CONVERSIONS: dict[type, Transform] = {
    **dict.fromkeys(_both('PILToTensor', 'ToImage'), to_tensor),
    **dict.fromkeys(_both('ToPILImage'), to_pil),
    **dict.fromkeys(_both('ToTensor'), to_floats),
}
TO_DTYPE = _both('ConvertImageDtype', 'ToDtype')
ADVICE = {
    **dict.fromkeys(_both('FiveCrop', 'TenCrop'), 'For several crops of an image use MultiCrop or num_views'),
    **dict.fromkeys(_both('CutMix', 'MixUp'), "It mixes a batch; for mixtures set model.unmix=dict(type='UnMix')"),
    **dict.fromkeys(_both('RandomIoUCrop', 'SanitizeBoundingBoxes'), 'It needs boxes, which these data have not'),
    **dict.fromkeys(OF_UNIT_INTERVAL, 'data_preprocessor normalises images of any number of channels'),
}
OWN = ('PILGaussianBlur', 'RandomErasing')  # of these names the classes are those of this package


def _register() -> None:
    """Register torchvision's transforms as ``NAME``, that of v1 if it has one, ``torchvision/NAME`` and ``v2.NAME``."""
    second = Registry(TRANSFORMS.name, parent=TRANSFORMS, scope='v2')
    found: dict[str, type] = {}
    for module in (v2, tv):
        for name, value in vars(module).items():
            own = inspect.isclass(value) and value.__module__.startswith('torchvision.transforms')
            if own and not issubclass(value, Enum) and value is not v2.Transform:
                found[name] = value
                if module is v2:
                    second.register_module(name=name, module=value)
    for name, value in found.items():
        TRANSFORMS.register_module(name=[f'torchvision/{name}', *([] if name in OWN else [name])], module=value)


class MmcvRegistry(Registry):
    """What ``mmcv.NAME`` is: mmcv's own transforms, and those of a user in its registry ``mmcv.transforms.TRANSFORMS``.

    That is MMEngine's registry, where ``NAME`` alone may be a transform of torchvision.
    """

    def get(self, key: str) -> type | None:
        """Return a transform; None if there is none."""
        try:
            import mmcv.transforms
        except ImportError:
            return None
        found: type | None = mmcv.transforms.TRANSFORMS.module_dict.get(key)
        return found


_register()
MmcvRegistry(TRANSFORMS.name, parent=TRANSFORMS, scope='mmcv')


def build_transform(cfg: dict[str, Any] | Transform) -> Transform:
    """Build a transform, and those in it.

    ``interpolation`` and ``policy`` are given by name, e.g. 'bicubic', ``dtype`` likewise, e.g. 'float32'.
    """
    if not isinstance(cfg, dict):
        return cfg
    cfg, kind = dict(cfg), TRANSFORMS.get(cfg['type']) if isinstance(cfg.get('type'), str) else cfg.get('type')
    if kind in CONTAINERS:
        cfg['transforms'] = [build_transform(child) for child in cfg['transforms']]
    for name, convert in (('interpolation', tv.InterpolationMode), ('policy', tv.AutoAugmentPolicy)):
        if isinstance(cfg.get(name), str) and _of_torchvision(kind):
            cfg[name] = convert(cfg[name])
    if isinstance(cfg.get('dtype'), str) and kind in TO_DTYPE:
        cfg['dtype'] = getattr(torch, cfg['dtype'].removeprefix('torch.'))
    for name in ('transformation_matrix', 'mean_vector'):
        if isinstance(cfg.get(name), Sequence):
            cfg[name] = torch.tensor(cfg[name])
    base = getattr(sys.modules.get('mmcv.transforms.base'), 'BaseTransform', None)
    if base is not None and isinstance(kind, type) and issubclass(kind, base):
        scope = str(cfg.pop('type')).partition('.')[0]
        known = scope != TRANSFORMS.scope and scope in mmengine_transforms.children  # a toolbox around mmcv
        with DefaultScope.overwrite_default_scope(scope if known else mmengine_transforms.scope):
            return cast(Transform, kind(**cfg))  # whose own configs name its neighbours
    return cast(Transform, TRANSFORMS.build(cfg))


def _of_torchvision(kind: Any) -> bool:
    return str(getattr(kind, '__module__', '')).startswith('torchvision.')


def steps(transforms: Sequence[Transform], place: str = 'transforms') -> list[Transform]:
    """Return the transforms, each with the form that it takes; those of a caller's own functions are left alone."""
    return [_step(transform, f'{place}.{number}') for number, transform in enumerate(transforms)]


def _step(transform: Transform, place: str) -> Transform:
    if isinstance(transform, CONTAINERS) and isinstance(transform.transforms, list):  # type: ignore[attr-defined]
        twin: Any = copy.copy(transform)
        twin.transforms = steps(twin.transforms, f'{place}.transforms')
        return cast(Transform, twin)
    if _is_mmcv(transform):
        return Step(transform, place, lambda image: _call_mmcv(transform, image))
    if isinstance(transform, PILGaussianBlur):
        return Step(transform, place, lambda image: _blur(transform, image))
    return Step(transform, place) if _of_torchvision(type(transform)) else transform


class Step:
    """A transform of a library, which gets the image in the form that it takes; its errors become one message.

    Args:
        transform: The transform.
        place: Its key in the config, for the message.
        call: What is called instead, if not the form but the call is another.
    """

    def __init__(self, transform: Transform, place: str, call: Transform | None = None) -> None:
        self.transform, self.place = transform, place
        self.kind = type(transform)
        self.call = call or self._call

    def __reduce__(self) -> tuple[Any, ...]:
        return _step, (self.transform, self.place)  # functions cannot be pickled for workers that are not forked

    def __call__(self, image: Any) -> Any:
        """Return the transformed image.

        Raises:
            ValueError: If the transform does not take such images.
        """
        try:
            result = self.call(image)
            if isinstance(result, Tensor):
                return to_tensor(result)
            if isinstance(result, Image.Image):
                return result
            raise ValueError(f'it gives a {type(result).__name__}, and a view is one image')
        except Exception as error:  # a library may raise any
            advice = ADVICE.get(self.kind, 'Take it out of the pipeline')
            reason = ' '.join(str(error).split()).rstrip('.')
            raise ValueError(
                f'dataset.pipeline.{self.place}: {self.kind.__name__} does not work on {_described(image)}: {reason}. '
                f'{advice}.'
            ) from error

    def _call(self, image: Any) -> Any:
        transform: Any = self.transform
        if self.kind in OF_COLOURS and isinstance(image, Tensor) and image.shape[0] not in COLOURS:
            raise ValueError('it changes colours, and is for images of 1 or 3 channels')
        if self.kind in CONVERSIONS:
            return CONVERSIONS[self.kind](image)
        if self.kind in TO_DTYPE and isinstance(transform.dtype, torch.dtype):  # the units stay
            return (
                to_floats(image).to(transform.dtype)
                if transform.dtype.is_floating_point
                else to_bytes(to_tensor(image))
            )
        if self.kind in OF_UNIT_INTERVAL:
            return transform((to_floats(image) / 255).contiguous())
        if self.kind in OF_TENSORS:
            image = to_tensor(image)
        if self.kind in OF_BYTES and isinstance(image, Tensor):
            image = to_bytes(image)
        return transform(image)


def _described(image: Any) -> str:
    if isinstance(image, Tensor):
        return f'an image of {image.shape[0]} channels ({image.dtype}, {tuple(image.shape)})'
    return f'a PIL image of mode {image.mode}' if isinstance(image, Image.Image) else f'a {type(image).__name__}'


def _blur(transform: PILGaussianBlur, image: Any) -> Any:
    """Blur by PIL, or a tensor that is no PIL image by the same kernel."""
    if not isinstance(image, Tensor):
        return transform(image)
    if image.dtype == torch.uint8 and image.shape[0] in COLOURS:
        return transform(to_pil(image))
    result = blurred(to_floats(image)[None], np.array([transform.draw()], np.float32))[0]
    return result if image.is_floating_point() else (result + 0.5).to(image.dtype)


def _is_mmcv(transform: Any) -> bool:
    """Whether it is a transform of mmcv or of a toolbox around it, which takes and returns a dict."""
    base = getattr(sys.modules.get('mmcv.transforms.base'), 'BaseTransform', None)
    return base is not None and isinstance(transform, base)


def _pixels(image: Any) -> np.ndarray:
    """Turn an image into what mmcv takes: (H, W, C), BGR or BGRA where there are 3 or 4 channels."""
    tensor = to_tensor(image)
    return np.ascontiguousarray(tensor[_swapped(tensor.shape[0])].permute(1, 2, 0).numpy())


def _image(pixels: Any) -> Tensor:
    """Turn what mmcv gives into an image (C, H, W): pixels (H, W) or (H, W, C), or a tensor by ``ImageToTensor``."""
    if isinstance(pixels, Tensor):
        return pixels[_swapped(pixels.shape[0])]
    made = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(pixels)))
    made = made[..., _swapped(made.shape[2])].contiguous()
    return made.permute(2, 0, 1)


def _swapped(channels: int) -> Any:
    return [2, 1, 0, *range(3, channels)] if channels in (3, 4) else slice(None)


def _call_mmcv(transform: Any, image: Any) -> Tensor:
    """Call a transform of mmcv."""
    if type(transform).__name__ == 'Normalize':
        raise ValueError('data_preprocessor normalises the images')
    if _is_loader(transform):
        raise ValueError('it reads a file, so it must be the first transform of all')
    pixels = _pixels(image)
    size = pixels.shape[:2]
    results = transform(dict(img=pixels, img_shape=size, ori_shape=size, height=size[0], width=size[1]))
    if not isinstance(results, dict) or 'img' not in results:
        raise ValueError("it returns no dict with the image as 'img'")
    made = results['img']
    return _image(made.numpy() if type(transform).__name__ == 'ToTensor' else made)  # it leaves the channels last


def _is_loader(transform: Any) -> bool:
    return _is_mmcv(transform) and isinstance(transform, sys.modules['mmcv.transforms'].LoadImageFromFile)


class Reader:
    """``mmcv.LoadImageFromFile`` as the first transform: it decodes the files of a data set, by ``mmcv.imfrombytes``.

    Its bytes are read by the data set, from wherever they are. A JPEG without an end is refused.

    Args:
        transform: The transform.

    Raises:
        ValueError: If it is asked for what the data set does by keys of its own, or reads in a way of its own.
    """

    def __init__(self, transform: Any) -> None:
        loader = sys.modules['mmcv.transforms'].LoadImageFromFile
        for wrong, advice in {
            type(transform).transform is not loader.transform: 'reads in a way of its own; let a data set class do so, '
            'as docs/custom_data.md shows',
            bool(transform.ignore_empty): "has ignore_empty=True; set dataset.broken='skip'",
            transform.file_client_args is not None: 'has file_client_args; set backend_args',
        }.items():
            if wrong:
                raise ValueError(f'dataset.pipeline.transforms.0: {type(transform).__name__} {advice}.')
        self.backend_args: dict[str, Any] | None = transform.backend_args
        self.flag, self.backend, self.floats = transform.color_type, transform.imdecode_backend, transform.to_float32

    @property
    def upright(self) -> bool:
        """Whether it turns photographs as their EXIF orientation says."""
        return self.flag in ('color', 'grayscale') and self.backend in ('cv2', 'pillow')

    def __call__(self, data: bytes) -> Tensor:
        """Return the image of a file (C, H, W), RGB.

        Raises:
            ValueError: If it cannot be decoded.
        """
        import mmcv

        if data.startswith(JPEG):
            check_end(data)
        try:
            pixels = mmcv.imfrombytes(data, flag=self.flag, backend=self.backend) if data else None
        except Exception as error:  # of many types
            raise ValueError(' '.join(str(error).split()) or type(error).__name__) from error
        if pixels is None:
            raise ValueError('it is truncated, or no image that mmcv can decode')
        if self.backend == 'tifffile':  # the one that gives RGB
            pixels = np.atleast_3d(pixels)
            pixels = pixels[..., _swapped(pixels.shape[2])]
        return _image(pixels.astype(np.float32) if self.floats else pixels)


def split_reader(transforms: Sequence[Transform]) -> tuple[Reader | None, list[Transform]]:
    """Return what decodes files, if the first transform is one that does, and the other transforms."""
    if transforms and _is_loader(transforms[0]):
        return Reader(transforms[0]), list(transforms[1:])
    return None, list(transforms)
