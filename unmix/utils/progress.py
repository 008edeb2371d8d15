"""A progress bar of bytes on the terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str, total: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, if that is a terminal; the block gets a function that adds a number of bytes.

    Args:
        what: Its description.
        total: Bytes in all.
        shown: Whether this process shows it.
    """
    from rich.console import Console  # imported here because that takes a tenth of a second
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn('{task.description}'), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    disable = not shown or not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=disable) as bar:
        task = bar.add_task(what, total=total)
        yield lambda size: bar.update(task, advance=size)
