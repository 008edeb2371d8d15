"""Layers that several parts of a method share."""

from unmix.models.layers.temperature import (
    LearnableTemperature,
    Temperature,
    build_temperature,
    divide_query,
    read_temperature,
)

__all__ = ['LearnableTemperature', 'Temperature', 'build_temperature', 'divide_query', 'read_temperature']
