"""MMEngine's visualizer without matplotlib."""

import sys

import numpy as np
import pytest
from mmengine.visualization import Visualizer

from unmix.registry import VISUALIZERS
from unmix.visualization.figure import new_figure


def test_matplotlib_is_needed_only_to_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ('matplotlib', 'matplotlib.figure'):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv('MPLBACKEND', 'nonsense')
    made = VISUALIZERS.build(dict(type='Visualizer', name='lazy', vis_backends=[]))
    assert Visualizer.get_current_instance() is made
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    with pytest.raises(ImportError):
        made.set_image(image)
    with pytest.raises(ImportError, match="Correct or unset MPLBACKEND='nonsense'"):
        new_figure()
    monkeypatch.undo()
    made.set_image(image)
    assert made.get_image().shape == image.shape
    assert made.dpi == made.fig_save.get_dpi()
