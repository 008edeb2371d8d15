"""Checkpoints of other codes, both ways; see docs/converters.md. The way of a file through this package:

1. ``containers.read`` reads it without executing anything; ``containers.tensors_of`` takes its tensors.
2. ``families.detect`` tells by their names who wrote it: a ``Family`` of ``published``, ``toolboxes`` or ``libraries``.
3. ``rules.rename_in`` gives the tensors this package's names; ``networks`` builds the networks that they belong to.
4. ``inward`` puts 1 to 3 together; ``proof`` compares each backbone with torchvision's, by the names of its code.
5. ``outward.express`` refuses what the target cannot hold, and gives the tensors the target's names by the same rules.
6. ``outward.write_checkpoint`` writes the file (``containers``, ``onnx_export``) under a temporary name.
7. ``loaders`` loads that file into the network of the library itself; ``proof`` compares what the two compute.
8. Only then the file takes its place. Each comparison, made or not made, is a ``Proof``, which the command prints.
"""

from unmix.converters.families import FAMILIES, find_family
from unmix.converters.inward import Converted, interpret, read_checkpoint
from unmix.converters.outward import express, without_heads, write_checkpoint
from unmix.converters.proof import Proof

__all__ = [
    'FAMILIES',
    'Converted',
    'Proof',
    'express',
    'find_family',
    'interpret',
    'read_checkpoint',
    'without_heads',
    'write_checkpoint',
]
