"""Networks of timm and torchvision with their published weights, which the library downloads or has."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn

from unmix.config.check import suggest
from unmix.converters.library_networks import remove_classifier
from unmix.models.backbones.timm_backbone import import_timm


class Fetched(NamedTuple):
    """A network of a library with its weights, without classifier, and the statistics of its images."""

    network: nn.Module
    statistics: dict[str, Any]


def fetch(library: str, name: str) -> Fetched:
    """Let a library build a network with its published weights, which it downloads or has.

    Raises:
        ConnectionError: If it cannot download them.
    """
    return _fetch_timm(name) if library == 'timm' else _fetch_torchvision(name)


def check_name(library: str, name: str) -> None:
    """Check that a library has a network, and weights of it.

    Raises:
        ImportError: If timm is missing.
        ValueError: If it has not.
    """
    if library == 'timm':
        timm = import_timm()
        listed, weights = timm.list_models(), timm.list_models(pretrained=True)
        found = name in weights or name in {model.partition('.')[0] for model in weights}
    else:
        listed = weights = torchvision.models.list_models(module=torchvision.models)
        found = name in listed
    if not found and name.partition('.')[0] not in listed:
        raise ValueError(f'{library}:{name}: {library} has no such network. {suggest(name, listed)}')
    if not found:
        raise ValueError(
            f'{library}:{name}: {library} has no such weights. timm.list_models(pretrained=True) lists them.'
        )


def _fetch_timm(name: str) -> Fetched:
    timm = import_timm()
    cfg = timm.get_pretrained_cfg(name)
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:
        model = name.partition('.')[0]
        way = f'download {cfg.url} elsewhere, and give --from FILE --backbone timm:{model}.'
        if cfg.hf_hub_id:
            way = (
                f'download config.json and model.safetensors from https://huggingface.co/{cfg.hf_hub_id} elsewhere, '
                f'and give their folder by --from. model.safetensors alone needs --backbone timm:{model}, and does '
                'not say mean and std.'
            )
        raise ConnectionError(
            f'--from timm:{name}: timm cannot load its weights ({type(error).__name__}: {str(error).splitlines()[0]}). '
            f'Without a network: {way}'
        ) from error
    statistics = {key: [255 * x for x in getattr(cfg, key)] for key in ('mean', 'std')}
    return Fetched(network, statistics)


def _fetch_torchvision(name: str) -> Fetched:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        network: nn.Module = torchvision.models.get_model(name, weights=weights)
    except Exception as error:
        folder = Path(torch.hub.get_dir(), 'checkpoints')
        raise ConnectionError(
            f'--from torchvision:{name}: torchvision cannot load its weights ({type(error).__name__}: {error}). '
            f'Without a network: download {weights.url} elsewhere, and put the file into {folder}, or give --from FILE '
            f'--backbone torchvision:{name}.'
        ) from error
    remove_classifier(network)
    transform = weights.transforms()
    return Fetched(network, {key: [255 * x for x in getattr(transform, key)] for key in ('mean', 'std')})
