"""Training loops."""

from .feature_loop import FeatureLoop
from .stop_signal import StopSignal
from .train_loop import TrainLoop

__all__ = ['FeatureLoop', 'StopSignal', 'TrainLoop']
