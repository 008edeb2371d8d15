"""Proof of a conversion: a network of another library loads the file, and its outputs equal those of ours."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from unmix.converters.family import Family
from unmix.converters.networks import resnets_of, stem_settings
from unmix.converters.rules import MOMENTUM
from unmix.models.backbones.resnet import ARCHITECTURES

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


@dataclass(frozen=True)
class Proof:
    """One comparison.

    Attributes:
        subject: The two networks; or the reason why there was no comparison.
        difference: Largest difference of an output divided by the largest output. None: there was no comparison.
        dtype: Type of the outputs.
    """

    subject: str
    difference: float | None = None
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:
        if self.difference is None:
            return f'not proved: {self.subject}'
        kind = str(self.dtype).removeprefix('torch.')
        return f'proved: {self.subject}; outputs differ by at most {self.difference:.1e} of the largest one ({kind})'


def torchvision_resnet(config: Mapping[str, Any]) -> ResNet:
    """Return torchvision's ResNet for the config of a backbone, without classifier, on the meta device.

    Blocks, their order and the arithmetic are torchvision's. Stem and stages are built by its own ``_make_layer``, as
    in the codes of the papers, since its constructors have neither other widths nor other stems.
    """
    block, blocks = ARCHITECTURES[config['depth']]
    width = config.get('width', 64)
    stem = stem_settings(config['stem'])
    maxpool = stem.pop('maxpool', False)
    with torch.device('meta'):
        network = ResNet(BasicBlock, [1, 1, 1, 1])
        network.inplanes = config.get('stem_width') or width
        network.conv1 = nn.Conv2d(config.get('in_channels', 3), network.inplanes, bias=False, **stem)
        network.bn1 = nn.BatchNorm2d(network.inplanes)
        for i in range(4):
            stage = network._make_layer(block, width * 2**i, blocks[i], 2 if i else 1) if i < len(blocks) else None
            setattr(network, f'layer{i + 1}', stage or nn.Identity())
    if not maxpool:
        network.maxpool = nn.Identity()
    network.fc = nn.Identity()
    return network.eval()


@torch.no_grad()
def compare(
    ours: nn.Module,
    theirs: Callable[[Tensor], Tensor],
    channels: int,
    subject: str,
    source: str,
    dtype: torch.dtype = torch.float64,
    size: int = 64,
) -> Proof:
    """Compare the outputs (2, D) of two networks on two standard normal images (2, ``channels``, ``size``, ``size``).

    Args:
        ours: The network of this package.
        theirs: The network of the library, of ``dtype``.
        channels: Number of channels of the images.
        subject: The two networks in words, for the report.
        source: Name of the file in messages.
        dtype: Type of images, weights and outputs.
        size: Side of the images.

    Raises:
        ValueError: If the outputs are not finite or of another shape, are the same for both images, or differ by more
            than 1e-9 of the largest one (1e-5 in float32).
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, channels, size, size, generator=generator, dtype=torch.float64).to(dtype)
    output, expected = copy.deepcopy(ours).to(dtype).eval()(images), theirs(images)
    largest = expected.abs().max()
    difference = ((output - expected).abs().max() / largest).item() if output.shape == expected.shape else math.inf
    if not (torch.isfinite(expected).all() and torch.isfinite(output).all()):
        problem = 'outputs are not finite; the checkpoint is damaged.'
    elif torch.equal(expected[0], expected[1]):
        problem = (
            'the same outputs for two images, so equal outputs prove nothing. The checkpoint is of a network that has '
            'collapsed, or was never trained.'
        )
    elif not difference <= TOLERANCE[dtype]:
        problem = f'outputs differ by {difference:.1e} of the largest one, more than {TOLERANCE[dtype]}.'
    else:
        return Proof(subject, difference, dtype)
    raise ValueError(f'{source}: {subject}: {problem} Nothing was written.')


def prove_backbones(
    family: Family,
    networks: Mapping[str, nn.ModuleDict],
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    source: str,
) -> tuple[Proof, ...]:
    """Load the ``tensors`` of a checkpoint into torchvision's ResNets by the names of the family; compare with ours.

    Returns:
        A proof for each ResNet. The last proof names the networks that no library has.

    Raises:
        ValueError: If a tensor is missing, or outputs differ.
    """
    proofs = []
    by = f"torchvision's ResNet by the names of {family.name}"
    for ours, rename in family.resnets.items():
        prefix = MOMENTUM if ours.startswith(MOMENTUM) else ''
        if prefix not in networks:
            continue
        network = torchvision_resnet(resnets_of(config)[ours.removeprefix(prefix)])
        names = {name: rename(name) for name in network.state_dict()}
        own = {name: tensors[theirs].clone() for name, theirs in names.items() if theirs in tensors}
        try:
            network.load_state_dict(own, assign=True)
        except RuntimeError as error:
            raise ValueError(f'{source} does not fit {by}: {error}') from error
        module = networks[prefix].get_submodule(ours.removeprefix(prefix))
        subject = f'{ours} here, and {source} in {by}'
        proofs.append(compare(module, network.double(), network.conv1.in_channels, subject, source))
    others = [prefix + name for prefix, modules in networks.items() for name in modules if name != 'backbone']
    if proofs and others:
        proofs.append(Proof(f'{", ".join(others)}: in no library; names and shapes fit'))
    return tuple(proofs)
