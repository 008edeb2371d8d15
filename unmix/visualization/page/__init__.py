"""HTML pages that need no other file: tables, pictures, and plots by uPlot, whose files lie here."""

import base64
import html
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

_FOLDER = Path(__file__).parent
POINTS = 800  # of a curve that a page has at most
_LARGE = 300_000  # bytes of a PNG from which on a page has it as JPEG
_WIDEST = 1600  # pixels of a picture


def safe(words: object) -> str:
    """Return any text for HTML: escaped, with bytes of names that are not UTF-8 as ``\\udcff``."""
    return html.escape(str(words).encode('utf-8', 'backslashreplace').decode())


@dataclass(frozen=True)
class Series:
    """A curve, or the points of a class.

    Attributes:
        label: In the legend.
        points: Of x and y.
        colour: Number of the colour; series of one number have one.
        dash: Whether the line is dashed.
        faint: Whether it is thin and pale.
    """

    label: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dash: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        title: Above it.
        x: Name of the axis, with its unit.
        y: Likewise.
        series: The curves.
        marks: Values of x where a vertical line is.
        scatter: Whether points are not joined.
        note: How the values were made, such as their smoothing.
    """

    title: str
    x: str
    y: str
    series: Sequence[Series]
    marks: Sequence[float] = field(default_factory=tuple)
    scatter: bool = False
    note: str = ''

    @property
    def xs(self) -> list[float]:
        """All values of x of finite points, in order."""
        return sorted({x for one in self.series for x, y in one.points if math.isfinite(y)})

    @property
    def drawn(self) -> list[Series]:
        """The series, finite points alone. A single point among longer curves is a line through all of the plot."""
        found, xs = [], self.xs
        for one in self.series:
            points = [(x, y) for x, y in one.points if math.isfinite(y)]
            if len(points) == 1 and len(xs) > 1 and not self.scatter:
                (x, y), *_ = points
                one = replace(one, label=f'{one.label}, {self.x} {x:g} alone')
                points = [(xs[0], y), (xs[-1], y)]
            if points:
                found.append(replace(one, points=points))
        return found


class Page:
    """A page that grows by parts.

    Args:
        title: Of the page.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []
        self._plots: list[dict[str, Any]] = []

    def add(self, *parts: str) -> None:
        """Add HTML."""
        self._parts += parts

    def add_plots(self, plots: Iterable[Plot]) -> None:
        """Add plots side by side. One of which all series have the same single x becomes bars."""
        figures = [self._figure(plot) for plot in plots if plot.xs]
        if figures:
            self.add(f'<div class="plots">{"".join(figures)}</div>')

    def _figure(self, plot: Plot) -> str:
        note = f' <small>{safe(plot.note)}</small>' if plot.note else ''
        caption = f'<figcaption>{safe(plot.title)}{note}</figcaption>'
        if len(plot.xs) == 1 and not plot.scatter:
            return f'<figure>{caption}{_bars(plot)}</figure>'
        self._plots.append(_spec(plot))
        return f'<figure>{caption}<div class="plot" data-plot="{len(self._plots) - 1}"></div></figure>'

    def text(self) -> str:
        """Return the page."""
        title = safe(self.title)
        style, script = _file('page.css'), ''
        if self._plots:
            style = _file('uPlot.min.css') + style
            data = json.dumps(self._plots, separators=(',', ':')).replace('<', '\\u003c')
            script = (
                f'<script type="application/json" id="plots">{data}</script>\n<!--\nuPlot:\n{_file("uPlot.LICENSE")}\n'
                f'-->\n<script>{_file("uPlot.iife.min.js")}</script>\n<script>{_file("page.js")}</script>\n'
            )
        body = '\n'.join(self._parts)
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<link rel="icon" href="data:,"><title>{title}</title><style>{style}</style></head>'
            f'<body>\n<h1>{title}</h1>\n{body}\n{script}</body></html>\n'
        )


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], own: Sequence[int] = (), numbers: bool = True
) -> str:
    """Return a table; it scrolls within itself where it is too wide.

    Args:
        columns: Their names.
        rows: Cells, which are escaped.
        own: Numbers of the rows that stand out.
        numbers: Whether all columns but the first are numbers.
    """
    kind = ' class="number"' if numbers else ''
    head = ''.join(f'<th{kind if n else ""}>{safe(name)}</th>' for n, name in enumerate(columns))
    body = ''.join(
        f'<tr{" class=own" if number in own else ""}>'
        + ''.join(f'<td{kind if n else ""}>{safe(cell)}</td>' for n, cell in enumerate(row))
        + '</tr>'
        for number, row in enumerate(rows)
    )
    return f'<div class="scroll"><table class="data"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def definitions(items: Mapping[str, object]) -> str:
    """Return a list of names with their values, which are escaped; a value in lines is code."""
    rows = []
    for name, value in items.items():
        words = safe(value)
        rows.append(f'<dt>{safe(name)}</dt><dd>{f"<pre>{words}</pre>" if chr(10) in words else words}</dd>')
    return f'<dl>{"".join(rows)}</dl>'


def picture(image: Image.Image | Path, kind: str = '', alternative: str = '') -> str:
    """Return a picture; a large file is reduced and written as JPEG.

    Raises:
        OSError: If the file cannot be read.
    """
    data, form = b'', 'png'
    if isinstance(image, Path):
        data = image.read_bytes()
    if not isinstance(image, Path) or len(data) > _LARGE:
        opened = Image.open(image).convert('RGB') if isinstance(image, Path) else image
        form = 'jpeg' if isinstance(image, Path) else 'png'
        if isinstance(image, Path):
            opened.thumbnail((_WIDEST, 4 * _WIDEST))
        opened.save(buffer := io.BytesIO(), form, quality=80)
        data = buffer.getvalue()
    source = base64.b64encode(data).decode()
    return f'<img class="{kind}" src="data:image/{form};base64,{source}" alt="{safe(alternative)}">'


def smoothed(points: Sequence[tuple[float, float]], weight: float = 0.9) -> list[tuple[float, float]]:
    """Return the exponential moving average of a curve, corrected for its start, of the finite points.

    ``s_n = sum_i weight^(n - i) y_i / sum_i weight^(n - i)``
    """
    found, total, norm = [], 0.0, 0.0
    for x, y in points:
        if math.isfinite(y):
            total, norm = weight * total + y, weight * norm + 1.0
            found.append((x, total / norm))
    return found


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """Return at most ``most`` points of a curve: of each piece the least and the greatest, so that peaks stay."""
    if len(points) <= most:
        return list(points)
    pieces = most // 2
    found = []
    for number in range(pieces):
        piece = points[number * len(points) // pieces : (number + 1) * len(points) // pieces]
        found += sorted({min(piece, key=lambda point: point[1]), max(piece, key=lambda point: point[1])})
    return found


def _spec(plot: Plot) -> dict[str, Any]:
    series = [(one, list(one.points)) for one in plot.drawn]
    if plot.scatter:  # points of equal x stay apart
        rows = sorted((x, y, number) for number, (_, points) in enumerate(series) for x, y in points)
        xs = [_short(x) for x, _, _ in rows]
        values = [[_short(y) if owner == number else None for _, y, owner in rows] for number in range(len(series))]
    else:
        series = [(one, thinned(points)) for one, points in series]
        places = sorted({x for _, points in series for x, _ in points})
        xs = [_short(x) for x in places]
        values = [[_short(found[x]) if x in found else None for x in places] for found in (dict(p) for _, p in series)]
    return dict(
        x=plot.x, y=plot.y, xs=xs, marks=list(plot.marks), scatter=plot.scatter,
        series=[
            dict(label=one.label, colour=one.colour, dash=one.dash, faint=one.faint, dots=len(points) < 40, values=own)
            for (one, points), own in zip(series, values, strict=True)
        ],
    )  # fmt: skip


def _bars(plot: Plot) -> str:
    found = [(one, one.points[-1][1]) for one in plot.drawn]
    most = max(abs(value) for _, value in found) or 1.0
    bars = ''.join(
        f'<span>{safe(one.label)}</span><i{" class=dash" if one.dash else ""} style="width:{100 * abs(y) / most:.1f}%">'
        f'</i><span>{y:.5g}</span>'
        for one, y in found
    )
    return f'<div class="bars">{bars}</div><p class="soft">{safe(plot.y)} at {safe(plot.x)} {plot.xs[0]:g}</p>'


def _short(value: float) -> float:
    return int(value) if float(value).is_integer() and abs(value) < 1e15 else float(f'{value:.5g}')


def _file(name: str) -> str:
    return (_FOLDER / name).read_text(encoding='utf-8')
