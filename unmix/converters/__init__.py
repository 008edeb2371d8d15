"""Conversion of checkpoints from and to other codes; see docs/converters.md. A file passes through these steps:

1. ``containers.read`` reads it and executes nothing; ``containers.tensors_of`` returns its tensors.
2. ``families.detect`` finds its ``Family`` (``published``, ``libraries``) by the names of the tensors.
3. ``rules.rename_in`` translates the names to ours; ``networks.build_encoder`` builds the networks of the tensors.
4. ``proof.prove_backbones`` compares each backbone with torchvision's. ``inward.interpret`` makes steps 1 to 4.
5. ``outward.express`` translates the names to those of the target, or refuses tensors that the target cannot hold.
6. ``outward.write_checkpoint`` writes a temporary file and loads it into the library's own network (``libraries``).
7. ``proof.compare`` compares the outputs. Only then is the temporary file renamed.

The command prints a ``Proof`` for each comparison, also for one that could not be made.
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
