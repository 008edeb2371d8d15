"""Projectors and predictors."""

from unmix.models.necks.projectors import LinearNeck, MLPNeck
from unmix.models.necks.two_branch import TwoBranchNeck

__all__ = ['LinearNeck', 'MLPNeck', 'TwoBranchNeck']
