"""Figures of matplotlib, which is imported when the first one is made: that is slow, and may fail."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VARIABLES = ('MPLBACKEND', 'MPLCONFIGDIR', 'MATPLOTLIBRC')


def new_figure(**arguments: Any) -> 'Figure':
    """Return a ``matplotlib.figure.Figure`` with these arguments; it needs neither pyplot nor a display.

    Raises:
        ImportError: If matplotlib cannot be imported; it names the variables of the environment that it reads.
    """
    try:
        from matplotlib.figure import Figure
    except Exception as error:  # ValueError by a wrong MPLBACKEND, OSError without a folder to write to
        found = ', '.join(f'{name}={os.environ[name]!r}' for name in _VARIABLES if name in os.environ)
        advice = f'Correct or unset {found}' if found else 'Look at its file matplotlibrc'
        raise ImportError(f'matplotlib cannot be imported ({type(error).__name__}: {error}). {advice}.') from error
    return Figure(**arguments)
