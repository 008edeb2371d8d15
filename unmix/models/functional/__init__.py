"""Losses against many rows that never hold the whole table of similarities."""

from unmix.models.functional.bank_lse import bank_lse, own_similarity
from unmix.models.functional.eager_gradient import eager_gradient
from unmix.models.functional.pair_cross_entropy import pair_cross_entropy

__all__ = ['bank_lse', 'eager_gradient', 'own_similarity', 'pair_cross_entropy']
