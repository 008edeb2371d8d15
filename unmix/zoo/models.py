"""Networks by name, with or without their weights."""

from typing import Any

import torch
from torch import nn

from unmix.apis.config import load_config
from unmix.checkpoint_loading import load_from_local
from unmix.models.pretrained import check_backbone
from unmix.registry import MODELS
from unmix.utils.matching import check_match
from unmix.zoo.index import find_model
from unmix.zoo.weights import download

BACKBONE = 'backbone.'


def get_model(name: str, pretrained: bool = True) -> nn.Module:
    """Return a model of the zoo in evaluation mode: a backbone, or a linear classifier with its backbone.

    A backbone takes images (N, C, H, W) to features (N, D), a classifier to class scores (N, classes). Images are
    normalised before, as ``pretrained_cfg['data_preprocessor']`` says, in the units of its mean and std (0 to 255).

    Args:
        name: As :func:`unmix.list_models` gives it.
        pretrained: Whether it has its published weights; if not, they are random.

    Returns:
        The model. Its attribute ``pretrained_cfg`` is a dict of ``name``, ``config`` (file), ``weights`` (file, or
        None) and ``data_preprocessor`` (mean and std).

    Raises:
        ConnectionError, OSError: If the weights cannot be had, see :func:`unmix.zoo.download`.
        ValueError: If there is no such model, or its weights are refused: another digest, more than weights in the
            file, or weights of another network.
    """
    entry = find_model(name)
    cfg = load_config(str(entry.config)).model.to_dict()
    is_classifier = cfg['type'] == 'Classifier' and cfg.get('head') is not None
    model = MODELS.build(cfg if is_classifier else cfg['backbone'])
    file = download(entry.name) if pretrained else None
    if file is not None:
        source = f'{file}, the weights of {entry.name},'
        checkpoint = load_from_local(str(file), map_location='cpu')
        check_backbone(cfg['backbone'], checkpoint, source)
        state = _tensors(checkpoint, source, '' if is_classifier else BACKBONE)
        check_match(model.state_dict(), state, source)
        model.load_state_dict(state)
    model.pretrained_cfg = dict(
        name=entry.name,
        config=str(entry.config),
        weights=None if file is None else str(file),
        data_preprocessor=cfg.get('data_preprocessor') or {},
    )
    return model.eval()


def _tensors(checkpoint: Any, source: str, prefix: str) -> dict[str, torch.Tensor]:
    state = checkpoint.get('state_dict') if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        kinds = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(f"{source} has no 'state_dict' but {kinds}; publish it by publish_model.py.")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def load_weights(filename: str, map_location: Any = None) -> Any:
    """Load the checkpoint of a model of the zoo; MMEngine's loader of ``unmix::NAME``.

    Raises:
        ConnectionError, OSError, ValueError: As :func:`unmix.zoo.download`; also if the file holds more than weights.
    """
    return load_from_local(str(download(filename)), map_location=map_location)
