"""What is known of a code that writes or reads checkpoints: a family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from unmix.converters.rules import Drop, Rule

Stem = str | dict[str, Any]
BLOCK = ('bn#.*', 'downsample.1.*', 'conv#.*', 'downsample.0.*')
RESNET = ('bn1.*', 'conv1.*', *(f'layer{i}.#.{part}' for i in (1, 2, 3, 4) for part in BLOCK))
TORCH_SUFFIXES = ('.pth', '.pt', '.tar', '.ckpt')


@dataclass(frozen=True)
class Library:
    """An installable library that reads the files of a family.

    Args:
        package: The module that must be importable.
        load: Loads a file into the library's own network; see :mod:`unmix.converters.loaders`.
        depths: The depths that the library has.
    """

    package: str
    load: Callable[[Path, int, int], Callable[[Tensor], Tensor]]
    depths: tuple[int, ...] = (18, 34, 50, 101, 152)


@dataclass(frozen=True)
class Family:
    """A code that writes or reads checkpoints.

    Args:
        name: What the tool calls it; ``aliases`` are other names for it.
        source: What writes it.
        resnets: Their ResNets: what each is called here, and a function from torchvision's name of a tensor to theirs.
            They give the rules of these names, and prove what was read.
        extra_rules: Our names and theirs of all else.
        marks: Patterns; a checkpoint of this family has a tensor for each.
        drops: Tensors without a place here.
        entries: Where the tensors stand in the file: prefix -> key, the first one being required; the key None is the
            whole file.
        prefix: What distributed training puts before all names; optional when reading.
        stems: Stems that its networks may have. Where shapes leave a choice, a file is read with the first.
        any_width: Whether its ResNets may have other widths and depths than torchvision's.
        extra: Further content of a written file.
        suffixes: Kinds of files that it reads besides those of ``torch.save``.
        library: What proves a written file. None: torchvision's networks by the names of ``resnets``.
    """

    name: str
    source: str
    resnets: Mapping[str, Callable[[str], str]]
    extra_rules: tuple[Rule, ...]
    marks: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    drops: tuple[Drop, ...] = ()
    entries: Mapping[str, str | None] = field(default_factory=lambda: {'': None})
    prefix: str = ''
    stems: tuple[Stem, ...] = ('imagenet', 'cifar')
    any_width: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    suffixes: tuple[str, ...] = ()
    library: Library | None = None

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """All rules; the first that matches a name counts."""
        parts = ((ours, part, rename) for ours, rename in self.resnets.items() for part in RESNET)
        return (*self.extra_rules, *(Rule(f'{ours}.{part}', rename(part)) for ours, part, rename in parts))
