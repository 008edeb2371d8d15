"""Features of a folder of images."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from torch import nn
from torch.utils.data import DataLoader

from unmix.checkpoint.load import load_from_local
from unmix.config import load_config
from unmix.datasets import ImageFolder, collate
from unmix.engine.loops.feature_loop import eval_mode
from unmix.evaluation.extraction import Encoder, collect_features
from unmix.models.pretrained import check_backbone
from unmix.registry import DATASETS, MODELS
from unmix.utils.matching import check_match, tensors_of
from unmix.zoo.index import find_model
from unmix.zoo.weights import download

RESIZE = 8 / 7  # of the crop: 256 to 224, as everywhere on ImageNet


@DefaultScope.overwrite_default_scope('unmix')  # another toolbox's may be the default
def extract_features(
    model: str | Path | nn.Module,
    folder: str | Path,
    *,
    config: str | Path | None = None,
    stage: str | None = None,
    size: int | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    device: str | None = None,
) -> dict[str, np.ndarray]:
    """Return the features of all images below a folder, as ``tools/test.py`` takes them.

    Images are prepared as the config prepares those that it evaluates on, and not augmented. For a data set of images
    of one size, and for grey ones, they are brought to that size and to grey.

    Args:
        model: Name of a model of the zoo, a checkpoint, or a network: one of :func:`unmix.get_model`, an algorithm, or
            any module that takes normalised images (N, C, H, W) to features (N, ...).
        folder: As for :class:`unmix.datasets.ImageFolder`: at least two sub-folders and no image beside them are
            classes, all else is unlabelled.
        config: Path or name of the model's config; a name of the zoo and what ``get_model`` returns know it.
        stage: ``'backbone'``, or ``'neck'`` for the projection. None: as in the config's evaluation.
        size: Side of the centre crop, out of images of 8/7 of that on their shorter side. None: as the config has it.
        batch_size: None: the config's for evaluation.
        num_workers: Likewise.
        device: A network is moved there. None: where it is, and a model from a file on the accelerator if there is one.

    Returns:
        ``paths`` (N,), relative to the folder, in order; ``features`` (N, D) float32; with classes also ``labels``
        (N,) int64 and ``classes``, their names.

    Raises:
        FileNotFoundError: If there is no such folder, checkpoint or config, or no image.
        ValueError: If an image cannot be read, there is no such model, a checkpoint does not fit, or the config does
            not say how images are evaluated.
    """
    cfg = load_config(str(config or _config_of(model)))
    evaluation = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    decode_size = _evaluated(cfg).get('decode_size') if size is None else None
    dataset = ImageFolder(folder, pipeline=evaluation_pipeline(cfg, size), decode_size=decode_size)
    stage = stage or (cfg.get('test_cfg') or cfg.get('val_cfg') or {}).get('stage', 'backbone')
    if isinstance(model, nn.Module):
        network, default = model, next((parameter.device for parameter in model.parameters()), 'cpu')
    else:
        network, default = _load(model, cfg, stage), get_device()
    network.to(device or default)
    encode = _encoder(network, cfg, stage, device or default)
    loader = DataLoader(
        dataset,
        batch_size or evaluation.get('batch_size', 256),
        num_workers=evaluation.get('num_workers', 0) if num_workers is None else num_workers,
        collate_fn=collate,
    )
    with eval_mode(network):
        # Folders need not have labels, so the index stands for them.
        rows = collect_features((dict(batch, label=batch['index']) for batch in loader), {'': encode})
    assert rows is not None
    found = dict(
        paths=np.array([os.fsdecode(path) for path in dataset.paths]), features=rows[''].features.cpu().float().numpy()
    )
    if dataset.labels is not None and dataset.classes is not None:
        found |= dict(labels=dataset.labels.numpy(), classes=np.array(dataset.classes))
    return found


def _encoder(network: Any, cfg: Config, stage: str, device: Any) -> Encoder:
    """Return what maps a batch of images to features.

    Raises:
        ValueError: If a network that is no algorithm is to give another stage than its output.
    """
    preprocessor = getattr(network, 'data_preprocessor', None)
    if preprocessor is None:
        preprocessor = MODELS.build(dict(type='DataPreprocessor') | (cfg.model.get('data_preprocessor') or {}))
    preprocessor.to(device)
    forward = network
    if hasattr(network, 'extract_feat'):
        forward = partial(network.extract_feat, stage=stage)
    elif stage != 'backbone':
        raise ValueError(f'A {type(network).__name__} has no stage {stage!r}; give an algorithm, or a checkpoint.')
    return lambda batch: forward(preprocessor(dict(inputs=batch['inputs']), False)['inputs'])


def _config_of(model: str | Path | nn.Module) -> str:
    """Return the config of a model that says it by itself.

    Raises:
        ValueError: If it does not.
    """
    if isinstance(model, nn.Module):
        known = getattr(model, 'pretrained_cfg', None)
        if known is None or 'config' not in known:
            raise ValueError(f'How images are prepared for this {type(model).__name__} is not known; give its config.')
        return known['config']
    file = Path(model).expanduser()
    if not _is_file(model):
        return str(find_model(str(model)).config)
    beside = ' or '.join(map(str, sorted(file.parent.glob('*.py')))) or 'the one that it was trained with'
    raise ValueError(f'Which config {model} is of is not known; give it (--config): {beside}.')


def _is_file(model: str | Path) -> bool:
    """Whether a checkpoint is given, and not the name of a model."""
    file = Path(model).expanduser()
    if not file.is_file() and (file.suffix in ('.pth', '.pt') or len(file.parts) > 1):
        raise FileNotFoundError(f'The checkpoint {model} does not exist.')
    return file.is_file()


def _load(model: str | Path, cfg: Config, stage: str) -> nn.Module:
    """Build what the features are made by, and load its weights from a checkpoint or the zoo."""
    file = Path(model).expanduser() if _is_file(model) else download(str(model))
    checkpoint = load_from_local(str(file), map_location='cpu')
    settings = cfg.model.to_dict()
    if stage == 'backbone' and settings['type'] != 'Classifier':  # the rest is not needed, and banks are large
        settings = dict(type='Classifier') | {key: settings.get(key) for key in ('backbone', 'data_preprocessor')}
    network = MODELS.build(settings)
    parts = ('backbone.',) if stage == 'backbone' else ('backbone.', 'neck.')
    own, state = (
        {name: tensor for name, tensor in tensors.items() if name.startswith(parts)}
        for tensors in (network.state_dict(), tensors_of(checkpoint, str(file)))
    )
    check_backbone(settings['backbone'], checkpoint, str(file))
    check_match(own, state, str(file))
    network.load_state_dict(state, strict=False)
    return network


def _evaluated(cfg: Config) -> dict[str, Any]:
    """Return the config of the data set that a config evaluates on, without what takes a part of it; {} for none."""
    dataset = (cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def evaluation_pipeline(cfg: Config, size: int | None = None) -> dict[str, Any] | None:
    """Return the config of the pipeline that gives an image of a folder the form in which a config evaluates images.

    Raises:
        ValueError: If the config evaluates nothing, or not single views, and there is no ``size``.
    """
    dataset = _evaluated(cfg)
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
    is_grey = cfg.model.backbone.get('in_channels') == 1 or 'palette' in (cfg.model.get('data_preprocessor') or {})
    transforms = pipeline['transforms'] if pipeline else []
    if is_grey and not any(transform['type'] == 'Grayscale' for transform in transforms):
        pipeline = dict(pipeline or _view(), transforms=[dict(type='Grayscale'), *transforms])
    return pipeline


def _view(*transforms: dict[str, Any]) -> dict[str, Any]:
    return dict(type='SingleView', transforms=[*transforms])
