"""The model zoo: names, weights and networks; see docs/model_zoo.md."""

from unmix.zoo.index import Entry, find_model, list_models
from unmix.zoo.models import get_model, load_weights
from unmix.zoo.weights import download

__all__ = ['Entry', 'download', 'find_model', 'get_model', 'list_models', 'load_weights']
