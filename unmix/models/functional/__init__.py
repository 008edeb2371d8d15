"""Losses against many rows, without tables of them."""

from unmix.models.functional.bank_gradient import BankGradient
from unmix.models.functional.bank_lse import bank_lse, own_similarity
from unmix.models.functional.eager_gradient import eager_gradient
from unmix.models.functional.pair_cross_entropy import pair_cross_entropy

__all__ = ['BankGradient', 'bank_lse', 'eager_gradient', 'own_similarity', 'pair_cross_entropy']
