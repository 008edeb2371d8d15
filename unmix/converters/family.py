"""What is known of a code that writes checkpoints: a family."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unmix.converters.rules import Drop, Rule


@dataclass(frozen=True)
class Layout:
    """Names of the parts of a ResNet in the order in which they compute; ``#`` is 1, 2, 3 within a block."""

    stem: str = 'conv1'
    stem_norm: str = 'bn1'
    stages: tuple[str, ...] = ('layer1', 'layer2', 'layer3', 'layer4')
    conv: str = 'conv#'
    norm: str = 'bn#'
    shortcut: tuple[str, str] = ('downsample.0', 'downsample.1')


@dataclass(frozen=True)
class Encoder:
    """One network of a checkpoint, and what follows it.

    Args:
        branches: Prefixes of its ResNets there: one, or two, which share the channels of the images.
        layout: Names inside a ResNet.
        ours: Prefix of its names here: empty, or ``'momentum_encoder.'``.
        heads: For each module after the backbone here, the forms it may have there; the first whose tensors are in
            the checkpoint counts. A form is a list of layers separated by blanks, after the prefix of the branch if it
            begins with ``~``; ``name.#`` stands for all of a Sequential, whose layers without tensors are ReLUs.
    """

    branches: tuple[str, ...]
    layout: Layout = Layout()
    ours: str = ''
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A code that writes checkpoints.

    Args:
        name: What the tool calls it; ``aliases`` are other names for it.
        source: What writes it.
        rules: Our names and theirs: they make a checkpoint.
        encoders: Their networks, from their names, independent of the rules: they prove it.
        marks: Patterns; a checkpoint of this family has a tensor for each.
        drops: Tensors without a place here.
        entries: Where the tensors stand in the file: prefix -> key, the first one being required; the key None is the
            whole file.
        prefix: What distributed training puts before all names; optional when reading.
        small_stem: What a 3x3 stem is in that code; None: it has none.
        extra: Further content of a written file.
    """

    name: str
    source: str
    rules: tuple[Rule, ...]
    encoders: tuple[Encoder, ...]
    marks: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    drops: tuple[Drop, ...] = ()
    entries: dict[str, str | None] = field(default_factory=lambda: {'': None})
    prefix: str = ''
    small_stem: str | dict[str, Any] | None = 'cifar'
    extra: dict[str, Any] = field(default_factory=dict)
