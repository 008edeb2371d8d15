"""How images are prepared for a network: as its config prepares those that it evaluates on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from PIL import Image, ImageOps
from torch import Tensor

from unmix.datasets.samplers import SampleKey
from unmix.registry import DATASETS, MODELS, TRANSFORMS

RESIZE = 8 / 7  # of the crop: 256 to 224, as everywhere on ImageNet


def evaluated(cfg: Config) -> dict[str, Any]:
    """Return the config of the data set that a config evaluates on, out of wrappers such as subsets; {} for none."""
    return innermost((cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}).get('dataset') or {})


def innermost(dataset: Any) -> Any:
    """Return the config of a data set out of wrappers such as subsets."""
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def evaluation_pipeline(cfg: Config, size: int | None = None) -> dict[str, Any] | None:
    """Return the config of the pipeline that prepares an image of a folder as a config prepares those it evaluates on.

    Raises:
        ValueError: If the config evaluates nothing, or not single views, and there is no ``size``.
    """
    dataset = evaluated(cfg)
    pipeline: dict[str, Any] | None
    if not dataset and size is None:
        raise ValueError(f'{cfg.filename} has no test_dataloader, which says how images are prepared; give --size.')
    if size is not None:
        pipeline = _view(dict(type='Resize', size=round(size * RESIZE)), dict(type='CenterCrop', size=size))
    elif (pipeline := dataset.get('pipeline')) is None:
        side = dataset.get('size', DATASETS.get(dataset['type']).image_size)
        pipeline = None if side is None else _view(dict(type='Resize', size=side), dict(type='CenterCrop', size=side))
    elif pipeline.get('type') != 'SingleView':
        raise ValueError(f'{cfg.filename}: test_dataloader.dataset.pipeline is no SingleView; give --size.')
    transforms = pipeline['transforms'] if pipeline else []
    if is_grey(cfg.model) and not any(transform['type'] == 'Grayscale' for transform in transforms):
        pipeline = dict(pipeline or _view(), transforms=[dict(type='Grayscale'), *transforms])
    return pipeline


def is_grey(model: Mapping[str, Any]) -> bool:
    """Return whether the images of a model, by its config, have one channel."""
    return model['backbone'].get('in_channels') == 1 or 'palette' in (model.get('data_preprocessor') or {})


def _view(*transforms: dict[str, Any]) -> dict[str, Any]:
    return dict(type='SingleView', transforms=[*transforms])


def image_transform(cfg: Config) -> 'ImageTransform':
    """Return how images are prepared for the backbone of a config.

    Where the config evaluates nothing, images get the size of the first views of its training, or of ``img_size`` of
    its backbone, or 224 px.
    """
    if evaluated(cfg):
        pipeline = evaluation_pipeline(cfg)
    else:
        dataset = innermost((cfg.get('train_dataloader') or {}).get('dataset') or {})
        views = dataset.get('pipeline') or {}
        transforms = (views.get('crops') or [views])[0].get('transforms') or [{}]
        size = transforms[0].get('size') or dataset.get('size') or cfg.model.backbone.get('img_size') or 224
        pipeline = evaluation_pipeline(cfg, size if isinstance(size, int) else size[0])
    return ImageTransform(pipeline or _view(), cfg.model.get('data_preprocessor') or {}, is_grey(cfg.model))


class ImageTransform:
    """Prepares an image for a network: an image, or the path of a file, to a normalised tensor (C, H, W).

    Files are turned upright, as their EXIF orientation says.

    Args:
        pipeline: Config of a :class:`SingleView`.
        preprocessor: Config of a :class:`DataPreprocessor`; the type may be missing.
        grey: Whether the images have one channel.
    """

    def __init__(self, pipeline: dict[str, Any], preprocessor: Mapping[str, Any], grey: bool) -> None:
        self.view = TRANSFORMS.build(pipeline)
        self.preprocessor = MODELS.build(dict(type='DataPreprocessor') | dict(preprocessor))
        self.mode = 'L' if grey else 'RGB'

    def __call__(self, image: Image.Image | str | Path) -> Tensor:
        """Return the normalised tensor (C, H, W) of an image."""
        if not isinstance(image, Image.Image):
            with Image.open(image) as file:
                image = ImageOps.exif_transpose(file)
        view = self.view(image.convert(self.mode), SampleKey(0, 0, 0))
        prepared: Tensor = self.preprocessor.normalize(view[None])[0]
        return prepared
