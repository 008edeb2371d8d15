"""A family: the names and the form of the checkpoints of one code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from unmix.converters.rules import Drop, Rename, Rule

Stem = str | dict[str, Any]
BLOCK = ('bn#.*', 'downsample.1.*', 'conv#.*', 'downsample.0.*')
RESNET = ('bn1.*', 'conv1.*', *(f'layer{i}.#.{part}' for i in (1, 2, 3, 4) for part in BLOCK))
TORCH_SUFFIXES = ('.pth', '.pt', '.tar', '.ckpt')


class UnknownFamily(ValueError):
    """A checkpoint has no tensors where those of a family are, or the names of no family."""


@dataclass(frozen=True)
class Library:
    """An installable library that reads the files of a family.

    Args:
        package: The module that must be importable.
        load: Function that loads a file into the library's own network; see :mod:`unmix.converters.libraries`.
        depths: The depths of the library's ResNets.
    """

    package: str
    load: Callable[[Path, int, int], Callable[[Tensor], Tensor]]
    depths: tuple[int, ...] = (18, 34, 50, 101, 152)


@dataclass(frozen=True)
class Family:
    """A code that writes or reads checkpoints.

    Args:
        name: Name for the command.
        source: The code, and the file that it writes.
        resnets: The ResNets of a checkpoint: name here -> function from torchvision's name of a tensor to theirs. Both
            the rules for these names and the comparison with torchvision follow from it.
        marks: Patterns. Every checkpoint of the family has a tensor for each of them.
        extra_rules: Rules for all other tensors.
        aliases: Other names for the command.
        drops: Tensors that are left out.
        entries: Place of the tensors in the file: prefix of names -> key. The first entry is required; the key None
            stands for the whole file.
        prefix: Prefix that distributed training adds to all names; a file that is read may lack it.
        stems: Stems that the networks may have. If the shapes fit several of them, the first is taken.
        any_width: Whether the ResNets may have other widths and depths than torchvision's.
        extra: Other content of a written file.
        suffixes: Suffixes that the family reads besides those of ``torch.save``.
        library: The library into which a written file is loaded. None: torchvision's networks by the names of
            ``resnets``.
    """

    name: str
    source: str
    resnets: Mapping[str, Rename]
    marks: tuple[str, ...]
    extra_rules: tuple[Rule, ...] = ()
    aliases: tuple[str, ...] = ()
    drops: tuple[Drop, ...] = ()
    entries: Mapping[str, str | None] = field(default_factory=lambda: {'': 'state_dict'})
    prefix: str = ''
    stems: tuple[Stem, ...] = ('imagenet', 'cifar')
    any_width: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    suffixes: tuple[str, ...] = ()
    library: Library | None = None

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """All rules. The first that matches a name is used."""
        parts = ((ours, part, rename) for ours, rename in self.resnets.items() for part in RESNET)
        return (*self.extra_rules, *(Rule(f'{ours}.{part}', rename(part)) for ours, part, rename in parts))
