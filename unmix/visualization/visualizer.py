"""MMEngine's visualizer, which imports matplotlib only to draw."""

from typing import Any

from mmengine.visualization import Visualizer

from unmix.registry import VISUALIZERS

_FIGURE = ('fig_save_canvas', 'fig_save', 'ax_save', 'dpi')


@VISUALIZERS.register_module(name='Visualizer')
class LazyVisualizer(Visualizer):
    """MMEngine's ``Visualizer``, whose figure is made when something is first drawn on it.

    So a matplotlib that cannot be imported (a wrong ``MPLBACKEND``, no folder to write to) does not end a training, and
    one that draws nothing starts sooner.

    Args:
        name: Name of the instance.
        image: What is drawn on, (H, W, 3); None: it is set later.
        **kwargs: As in MMEngine's ``Visualizer``.
    """

    def __init__(self, name: str = 'visualizer', image: Any = None, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        for attribute in _FIGURE:
            delattr(self, attribute)
        if image is not None:
            self.set_image(image)

    def _initialize_fig(self, fig_cfg: Any) -> tuple[Any, Any, Any]:
        return None, _NoFigure, None  # for MMEngine's __init__

    def __getattr__(self, name: str) -> Any:
        if name not in _FIGURE:
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')
        self.fig_save_canvas, self.fig_save, self.ax_save = super()._initialize_fig(self.fig_save_cfg)
        self.dpi = self.fig_save.get_dpi()
        return self.__dict__[name]


class _NoFigure:
    @staticmethod
    def get_dpi() -> None:
        """Return nothing; MMEngine's ``__init__`` asks."""
