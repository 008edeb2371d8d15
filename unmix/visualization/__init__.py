"""Pictures of a training."""

from unmix.visualization.curves import draw_curves, read_scalars
from unmix.visualization.views import denormalize, draw_views

__all__ = ['denormalize', 'draw_curves', 'draw_views', 'read_scalars']
