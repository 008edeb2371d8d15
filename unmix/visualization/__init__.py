"""Pictures of a training."""

from unmix.visualization.curves import draw_curves
from unmix.visualization.scalar_file import PatientVisBackend
from unmix.visualization.views import Mixture, draw_views, draws_of_a_run
from unmix.visualization.visualizer import LazyVisualizer

__all__ = ['LazyVisualizer', 'Mixture', 'PatientVisBackend', 'draw_curves', 'draw_views', 'draws_of_a_run']
