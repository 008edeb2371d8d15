"""Pictures of a training."""

from unmix.visualization.curves import draw_curves, read_scalars
from unmix.visualization.scalar_file import PatientVisBackend
from unmix.visualization.views import denormalize, draw_views

__all__ = ['PatientVisBackend', 'denormalize', 'draw_curves', 'draw_views', 'read_scalars']
