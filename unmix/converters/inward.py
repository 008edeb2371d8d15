"""Translation of a foreign checkpoint to the names and networks of this package, with a proof."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from unmix.converters.containers import read, tensors_of
from unmix.converters.families import detect, find_family
from unmix.converters.family import Family, Stem
from unmix.converters.networks import build_encoder, resnets_of
from unmix.converters.proof import Proof, prove_backbones
from unmix.converters.rules import MOMENTUM, rename_in


@dataclass
class Converted:
    """A checkpoint with this package's names.

    Attributes:
        family: Family of the file that was read or written.
        state: Its tensors.
        networks: Its networks by prefix: ``''``, and ``'momentum_encoder.'`` if there is one.
        model: Configs of the networks of prefix ``''``.
        dropped: Names of tensors that were left out, with the reason.
        proofs: The comparisons, those included that could not be made.
        preprocessor: The normalisation in ``meta.model`` of the file; {}: it has none.
    """

    family: Family
    state: dict[str, Tensor]
    networks: dict[str, nn.ModuleDict]
    model: dict[str, Any]
    dropped: dict[str, str] = field(default_factory=dict)
    proofs: tuple[Proof, ...] = ()
    preprocessor: dict[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> Stem | None:
        """Stem of the backbone; None if it is a network of a library."""
        return next((config['stem'] for config in resnets_of(self.model['backbone']).values()), None)


def read_checkpoint(source: str | Path, family: str = 'auto', stem: Stem | None = None) -> Converted:
    """Read a file and call :func:`interpret`. Raises also FileNotFoundError if the file is missing."""
    return interpret(read(source), str(source), family, stem)


def interpret(content: Any, source: str, family: str = 'auto', stem: Stem | None = None) -> Converted:
    """Translate the content of a checkpoint, and prove that its backbones compute the same here.

    No library has the projector and predictor: only their names and shapes are checked.

    Args:
        content: Content of the file.
        source: Name of the file in messages.
        family: Its family; ``'auto'`` finds it by the names of the tensors.
        stem: Stem of the backbone, if the shapes fit several. None: the stem in ``meta.model`` of the checkpoint, or
            else the first one of the family that fits.

    Raises:
        ValueError: If the checkpoint is of another family or network, or the outputs differ.
    """
    found = detect(content, source) if family == 'auto' else find_family(family)
    tensors = tensors_of(content, found, source)
    try:
        state, dropped = rename_in(tensors, found.rules, found.drops)
    except ValueError as error:
        raise ValueError(f'{source} as {found.name}: {error}') from error
    written = written_backbone(content)
    known = stem or (written or {}).get('branch', written or {}).get('stem')
    stems = (known, *found.stems) if known else found.stems
    networks: dict[str, nn.ModuleDict] = {}
    model: dict[str, Any] = {}
    for prefix in ('', MOMENTUM):
        if any(name.startswith(f'{prefix}backbone.') for name in state):
            networks[prefix], configs, left = build_encoder(state, prefix, stems, source, written)
            model = model or configs
            dropped |= left
    if '' not in networks:
        raise ValueError(f'{source} as {found.name}: there is no backbone among {", ".join(list(tensors)[:4])}, ...')
    state = {name: tensor for name, tensor in state.items() if name not in dropped}
    proofs = prove_backbones(found, networks, model['backbone'], tensors, source)
    return Converted(found, state, networks, model, dropped, proofs, dict(_written(content, 'data_preprocessor') or {}))


def written_backbone(content: Any) -> Mapping[str, Any] | None:
    """Return the config of the backbone in the ``meta.model`` of a checkpoint, or None."""
    return _written(content, 'backbone')


def _written(content: Any, part: str) -> Mapping[str, Any] | None:
    place = content
    for key in ('meta', 'model', part):
        place = place.get(key) if isinstance(place, Mapping) else None
    return place if isinstance(place, Mapping) else None
