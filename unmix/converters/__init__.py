"""Checkpoints of other codes, both ways; see docs/converters.md."""

from unmix.converters.families import FAMILIES, find_family
from unmix.converters.inward import Converted, interpret, read_checkpoint
from unmix.converters.outward import express, without_heads, write_checkpoint

__all__ = [
    'FAMILIES',
    'Converted',
    'express',
    'find_family',
    'interpret',
    'read_checkpoint',
    'without_heads',
    'write_checkpoint',
]
