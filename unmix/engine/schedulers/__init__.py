"""Learning-rate schedules."""

from .cosine import CosineLR
from .ramp_cosine import RampCosineLR
from .warmup import WarmupCosineLR, WarmupStepLR

__all__ = ['CosineLR', 'RampCosineLR', 'WarmupCosineLR', 'WarmupStepLR']
