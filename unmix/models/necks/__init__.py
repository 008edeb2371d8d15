"""Projectors and predictors."""

from unmix.models.necks.projectors import DINONeck, LinearNeck, MLPNeck
from unmix.models.necks.two_branch import TwoBranchNeck

__all__ = ['DINONeck', 'LinearNeck', 'MLPNeck', 'TwoBranchNeck']
