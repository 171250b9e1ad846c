"""Charts as inline SVG: lines with bands, heat maps, bubbles, stacked bars.

Colours are the page's CSS classes, so one CSS rule switches to dark mode. Every mark has a <title>, which browsers show on
hover and screen readers read.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 270, 52, 34, 24, 14
COLOURS = 9


class Line(NamedTuple):
    """A curve. `low` and `high` are the edges of a band around the curve. A y of None is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def lines(
    curves: Sequence[Line], x_label: str, y_label: str, y_range: tuple[float, float] | None = None, *, decades: bool = False
) -> str:
    """Curves over a common x-axis, with a legend. With `decades` the y-axis is logarithmic, and all values must be positive."""
    curves = [curve for curve in curves if any(y is not None for y in curve.y)]
    if not curves:
        return note("nothing to draw yet")
    shown = [y for c in curves for y in [*c.y, *c.low, *c.high] if y is not None]
    low, high = y_range or (_whole_decades if decades else _padded)(min(shown), max(shown))
    first, last = min(x for c in curves for x in c.x), max(x for c in curves for x in c.x)
    alone = first == last  # a single point is drawn in the middle of the axis
    first, last = (first - 1, last + 1) if alone else (first, last)

    def at(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        return right, TOP + (high - (math.log10(y) if decades else y)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [_y_axis(low, high, y_label, decades), _x_axis(first, last, x_label, alone)]
    for number, curve in enumerate(curves):
        colour = f"c{number % COLOURS}"
        if curve.low:
            edge = [at(x, y) for x, y in zip(curve.x, curve.high, strict=True)]
            edge += [at(x, y) for x, y in zip(curve.x[::-1], curve.low[::-1], strict=True)]
            parts.append(f'<polygon class="band {colour}" points="{_points(edge)}"/>')
        for run in _unbroken(curve):
            parts.append(f'<polyline class="line {colour}" points="{_points([at(x, y) for x, y in run])}"/>')
        radius = 3 if len(curve.x) <= 40 else 1.5
        for x, y in zip(curve.x, curve.y, strict=True):
            if y is not None:
                cx, cy = at(x, y)
                title = _title(f"{curve.name}, {x_label} {_number(x)}: {_number(y)}")
                parts.append(f'<circle class="dot {colour}" cx="{cx:.1f}" cy="{cy:.1f}" r="{radius}">{title}</circle>')
    return _svg(WIDTH, HEIGHT, parts) + _legend([curve.name for curve in curves])


def heat_map(rows: Sequence[str], columns: Sequence[str], values, *, digits: int = 2, largest: float | None = None) -> str:
    """A matrix as a grid of colours. Deeper colours are larger absolute values; negative values have a second hue."""
    cell_width, cell_height, left = _cell(columns), 24, _label_space(rows)
    width, height = left + cell_width * len(columns), 22 + cell_height * len(rows) + 4
    top = largest or max((abs(v) for row in values for v in row if v is not None), default=0) or 1.0
    parts = [
        f'<text class="small" text-anchor="middle" x="{left + (j + 0.5) * cell_width:.1f}" y="14">{_text(name, 14)}</text>'
        for j, name in enumerate(columns)
    ]
    for i, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = 22 + i * cell_height
        parts.append(f'<text class="small" text-anchor="end" x="{left - 6}" y="{y + 16}">{_text(name, 24)}</text>')
        for j, value in enumerate(row):
            if value is None:
                continue
            depth, hue = min(abs(value) / top, 1.0), "c1" if value < 0 else "c0"
            x, title = left + j * cell_width, _title(f"{name}, {columns[j]}: {_number(value)}")
            box = f'x="{x:.1f}" y="{y}" width="{cell_width - 2:.1f}" height="{cell_height - 2}"'
            parts.append(f'<rect class="cell {hue}" fill-opacity="{0.06 + 0.5 * depth:.3f}" {box}>{title}</rect>')
            if cell_width >= 30:
                place = f'x="{x + cell_width / 2 - 1:.1f}" y="{y + 15}"'
                parts.append(f'<text class="small value" text-anchor="middle" {place}>{value:.{digits}f}</text>')
    return _svg(width, height, parts, natural=True)


def bubbles(rows: Sequence[str], columns: Sequence[str], counts) -> str:
    """A matrix of counts, drawn as circles whose areas are proportional to the counts."""
    left, cell = _label_space(rows), 46
    width, height = left + cell * len(columns), 24 + cell * len(rows)
    top = max((value for row in counts for value in row), default=0) or 1
    parts = [
        f'<text class="small" text-anchor="middle" x="{left + (j + 0.5) * cell}" y="14">{_text(name, 8)}</text>'
        for j, name in enumerate(columns)
    ]
    for i, (name, row) in enumerate(zip(rows, counts, strict=True)):
        y = 24 + (i + 0.5) * cell
        parts.append(f'<text class="small" text-anchor="end" x="{left - 6}" y="{y + 4}">{_text(name, 24)}</text>')
        for j, value in enumerate(row):
            if value:
                radius, title = cell * 0.48 * math.sqrt(value / top), _title(f"{name}, {columns[j]}: {value} questions")
                hue = "c1" if j == 0 else "c0"
                parts.append(
                    f'<circle class="bubble {hue}" cx="{left + (j + 0.5) * cell}" cy="{y}" r="{radius:.1f}">{title}</circle>'
                )
                parts.append(
                    f'<text class="small value" text-anchor="middle" x="{left + (j + 0.5) * cell}" y="{y + 4}">{value}</text>'
                )
    return _svg(width, height, parts, natural=True)


def stacked_bars(labels: Sequence[str], parts_of: Mapping[str, Sequence[float]], y_label: str) -> str:
    """One bar per label, divided into named parts."""
    totals = [sum(values[i] for values in parts_of.values()) for i in range(len(labels))]
    if not labels or max(totals) <= 0:
        return note("nothing to draw yet")
    high = max(totals)
    step = (WIDTH - LEFT - RIGHT) / len(labels)
    drawn = [_y_axis(0.0, high, y_label)]
    every = math.ceil(len(labels) / 16)
    for i, label in enumerate(labels):
        x, base = LEFT + step * (i + 0.15), HEIGHT - BOTTOM
        for number, (name, values) in enumerate(parts_of.items()):
            tall = values[i] / high * (HEIGHT - TOP - BOTTOM)
            base -= tall
            title = _title(f"{name}, {label}: {_number(values[i])}")
            box = f'x="{x:.1f}" y="{base:.1f}" width="{step * 0.7:.1f}" height="{tall:.1f}"'
            drawn.append(f'<rect class="cell c{number % COLOURS}" {box}>{title}</rect>')
        if i % every == 0:
            place = f'x="{x + step * 0.35:.1f}" y="{HEIGHT - 16}"'
            drawn.append(f'<text class="small" text-anchor="middle" {place}>{_text(label, 12)}</text>')
    return _svg(WIDTH, HEIGHT, drawn) + _legend(list(parts_of))


def note(text: str) -> str:
    """HTML of a sentence in small print, below a chart."""
    return f'<p class="note">{html.escape(text)}</p>'


# --- pieces -------------------------------------------------------------------------------------------------------------


def _svg(width: float, height: float, parts: Sequence[str], natural: bool = False) -> str:
    """An SVG made of `parts`, which fills the page's width or, if `natural`, has its own width."""
    style = f' style="max-width:{width:.0f}px;min-width:{min(width, 420):.0f}px"' if natural else ""
    return f'<div class="chart"><svg role="img" viewBox="0 0 {width:.0f} {height:.0f}"{style}>{"".join(parts)}</svg></div>'


def _legend(names: Sequence[str]) -> str:
    """The legend of a chart: the names of its curves beside their colours."""
    items = (f'<span><i class="c{number % COLOURS}"></i>{html.escape(name)}</span>' for number, name in enumerate(names))
    return f'<div class="legend">{"".join(items)}</div>'


def _y_axis(low: float, high: float, label: str, decades: bool = False) -> str:
    """Grid lines of a chart and their values on the left. With `decades`, low and high are logarithms."""
    parts = [f'<text class="small" x="2" y="{TOP - 12}">{html.escape(label)}</text>']
    for tick in ticks(low, high, whole=decades):
        y = TOP + (high - tick) / (high - low) * (HEIGHT - TOP - BOTTOM)
        value = _number(10**tick if decades else tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="small" text-anchor="end" x="{LEFT - 6}" y="{y + 4:.1f}">{value}</text>')
    return "".join(parts)


def _x_axis(first: float, last: float, label: str, alone: bool = False) -> str:
    """The label and the values below a chart, at round numbers; with `alone` one value in the middle, for a single point."""
    place = f'x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 3}"'
    parts = [f'<text class="small" text-anchor="middle" {place}>{html.escape(label)}</text>']
    for tick in [(first + last) / 2] if alone else ticks(first, last, whole=True):
        x = LEFT + (tick - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<text class="small" text-anchor="middle" x="{x:.1f}" y="{HEIGHT - 18}">{_number(tick)}</text>')
    return "".join(parts)


def ticks(low: float, high: float, whole: bool = False, about: int = 5) -> list[float]:
    """The numbers to print on an axis from low to high: about `about` round numbers."""
    raw = (high - low) / about
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
    step = max(step, 1) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _padded(low: float, high: float) -> tuple[float, float]:
    """The range of an axis: with a margin, and from 0 if the least value is close to 0."""
    margin = 0.06 * (high - low) or max(abs(high) * 0.1, 1e-3)
    return (0.0 if 0 <= low <= 0.3 * high else low - margin), high + margin


def _whole_decades(low: float, high: float) -> tuple[float, float]:
    """The range of a logarithmic axis: the powers of ten around low and high."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return first, max(last, first + 1)


def _unbroken(curve: Line) -> list[list[tuple[float, float]]]:
    """Divides a curve at its gaps into stretches that can be drawn as lines: those of at least two points."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(curve.x, curve.y, strict=True):
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if len(run) > 1]


def _points(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def _cell(columns: Sequence[str]) -> float:
    """The width of a column of a heat map, by the lengths of the columns' names."""
    return max(34.0, min(90.0, max(len(name[:14]) for name in columns) * 7.0)) if len(columns) <= 16 else 18.0


def _label_space(rows: Sequence[str]) -> int:
    """The width that the names of a chart's rows need, in SVG units."""
    return 14 + 7 * max((min(len(name), 24) for name in rows), default=0)


def _title(text: str) -> str:
    """The <title> of a mark, which a browser shows on hover."""
    return f"<title>{html.escape(text)}</title>"


def _text(text: str, longest: int) -> str:
    """A text of at most `longest` characters, shortened if it is longer, and escaped for HTML."""
    return html.escape(text if len(text) <= longest else text[: longest - 1] + "…")


def _number(value: float) -> str:
    return f"{value:.4g}"
