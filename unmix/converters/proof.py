"""A conversion is right if the network here and the one there give the same features."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unmix.converters.family import Encoder
from unmix.converters.networks import stem_settings
from unmix.converters.reference import Tensors, forward

TOLERANCE = 1e-5
SIZE, IMAGES = 64, 2


def probe(networks: nn.ModuleDict) -> Tensor:
    """Return the images (N, C, 64, 64) on which outputs are compared, standard normal, the same each time."""
    weight = next(networks['backbone'].parameters())
    channels = getattr(networks['backbone'], 'channels', None)
    num_channels = sum(channels) if channels else weight.shape[1]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(IMAGES, num_channels, SIZE, SIZE, generator=generator).to(weight.dtype)


@torch.no_grad()
def outputs(networks: nn.ModuleDict, images: Tensor) -> dict[str, Tensor]:
    """Return the output (N, D) of each network, applied one after the other."""
    results: dict[str, Tensor] = {}
    x = images
    for name, network in networks.items():
        x = results[name] = network(x)
    return results


def largest_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], source: str) -> float:
    """Return the largest difference of outputs, relative to the largest magnitude of each.

    Raises:
        ValueError: If an output is missing there or not finite, the features are the same for all images, or the
            difference is above 1e-5.
    """
    worst = 0.0
    for name, output in ours.items():
        if name not in theirs:
            raise ValueError(f'{source}: the {name} cannot be proved, since its layers are unknown there.')
        expected = theirs[name]
        if not (torch.isfinite(expected).all() and torch.isfinite(output).all()):
            raise ValueError(f'{source}: the {name} gives values that are not finite; the checkpoint is damaged.')
        if name == 'backbone' and torch.equal(expected[0], expected[1]):
            raise ValueError(
                f'{source}: the backbone gives the same features for two images, so equal outputs prove nothing. '
                'The checkpoint is of a network that has collapsed, or was never trained.'
            )
        scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
        difference = ((output - expected).abs().max() / scale).item()
        if not difference <= TOLERANCE:
            raise ValueError(
                f'{source}: the outputs of the {name} here and there differ by {difference:.1e} of the largest one, '
                f'more than {TOLERANCE}. Nothing was written. Is --stem right for this checkpoint?'
            )
        worst = max(worst, difference)
    return worst


def prove(
    networks: nn.ModuleDict, tensors: Tensors, encoder: Encoder, stem: str | dict[str, Any], source: str
) -> float:
    """Compare networks of this package with the foreign encoder; see :func:`largest_difference`."""
    images = probe(networks)
    theirs = forward(tensors, encoder, stem_settings(stem), images)
    return largest_difference(outputs(networks, images), theirs, source)
