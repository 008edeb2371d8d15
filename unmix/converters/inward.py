"""From a foreign checkpoint to this package's names and networks, with a proof."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from unmix.converters.containers import read, tensors_of
from unmix.converters.families import detect, find_family
from unmix.converters.family import Family, Stem
from unmix.converters.naming import MOMENTUM
from unmix.converters.networks import build_encoder, resnets_of
from unmix.converters.proof import Proof, prove_backbones
from unmix.converters.rules import rename_in


@dataclass
class Converted:
    """A checkpoint by this package's names.

    Attributes:
        family: Where it comes from, or where it went.
        state: Its tensors.
        networks: Its networks by the prefix of their names: empty, or ``'momentum_encoder.'``.
        model: The configs of the networks of the first one.
        dropped: Names that were left out, with the reason.
        proofs: What was compared, and what could not be.
    """

    family: Family
    state: dict[str, Tensor]
    networks: dict[str, nn.ModuleDict]
    model: dict[str, Any]
    dropped: dict[str, str] = field(default_factory=dict)
    proofs: tuple[Proof, ...] = ()

    @property
    def stem(self) -> Stem:
        """The stem of the backbone."""
        stem: Stem = next(iter(resnets_of(self.model['backbone']).values()))['stem']
        return stem


def read_checkpoint(source: str | Path, family: str = 'auto', stem: Stem | None = None) -> Converted:
    """Read a file and interpret it, see :func:`interpret`; a missing file is a FileNotFoundError."""
    return interpret(read(source), str(source), family, stem)


def interpret(content: Any, source: str, family: str = 'auto', stem: Stem | None = None) -> Converted:
    """Translate the content of a checkpoint, and prove that its backbones compute the same here.

    What follows a backbone is in no library; there names and shapes must fit, all of them.

    Args:
        content: Of the file ``source``.
        source: For messages.
        family: Its family, or ``'auto'``: found by its names.
        stem: Where shapes leave a choice; None: as the checkpoint says in ``meta.model``, or as that family has it.

    Raises:
        ValueError: If it is of another family or network, or the outputs differ.
    """
    found = detect(content, source) if family == 'auto' else find_family(family)
    tensors = tensors_of(content, found, source)
    try:
        state, dropped = rename_in(tensors, found.rules, found.drops)
    except ValueError as error:
        raise ValueError(f'{source} as {found.name}: {error}') from error
    known = stem or _written_stem(content)
    stems = (known, *found.stems) if known else found.stems
    networks: dict[str, nn.ModuleDict] = {}
    model: dict[str, Any] = {}
    for prefix in ('', MOMENTUM):
        if any(name.startswith(f'{prefix}backbone.') for name in state):
            networks[prefix], configs, left = build_encoder(state, prefix, stems, source)
            model = model or configs
            dropped |= left
    if '' not in networks:
        raise ValueError(f'{source} as {found.name}: there is no backbone among {", ".join(list(tensors)[:4])}, ...')
    state = {name: tensor for name, tensor in state.items() if name not in dropped}
    proofs = prove_backbones(found, networks, model['backbone'], tensors, source)
    return Converted(found, state, networks, model, dropped, proofs)


def _written_stem(content: Any) -> Stem | None:
    """Return the stem that this converter wrote down in a checkpoint, if it did."""
    place = content
    for key in ('meta', 'model', 'backbone'):
        place = place.get(key) if isinstance(place, Mapping) else None
    return place.get('branch', place).get('stem') if isinstance(place, Mapping) else None
