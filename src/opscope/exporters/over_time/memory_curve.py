"""Memory over the course of a program, as a picture: areas by category, the peak marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby

from opscope import notation

_WIDTH, _HEIGHT = 960, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 16, 58, 46
_ROOM = _WIDTH - _LEFT - _RIGHT
_TALL = _HEIGHT - _TOP - _BOTTOM
_LEGEND = 12  # below the title
# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = {
    "parameters": "#0072b2", "buffers": "#56b4e9", "optimizer": "#009e73", "gradients": "#e69f00",
    "activations": "#d55e00", "inputs": "#999999", "temporaries": "#cc79a7",
}  # fmt: skip
_STEPS = (1, 2, 2.5, 5, 10)


def memory_svg(
    curves: Mapping[str, Sequence[int]],
    phases: Sequence[str],
    *,
    title: str,
    peak: str,
) -> str:
    """Return an SVG of the bytes after each op.

    Args:
        curves: By category, from the bottom up; those that are empty all along are left out.
        phases: The phase of a training step that each op is in.
        title: Stands above it.
        peak: What is said of the largest sum.
    """
    shown = {name: curve for name, curve in curves.items() if any(curve)}
    count = len(phases)
    totals = [sum(at) for at in zip(*shown.values(), strict=True)] or [0] * count
    most = max(totals, default=0)
    at_peak = totals.index(most) if totals else 0
    places = list(_columns(totals))
    scale = _Scale(count, most)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="15" font-weight="bold">{escape(title)}</text>',
        *_legend(shown),
        *_grid(scale, most),
        *_areas(shown, places, scale),
        *_phases(phases, scale),
        *_peak(at_peak, most, peak, scale),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Scale:
    """Where ops and bytes are in the picture."""

    def __init__(self, ops: int, most: int) -> None:
        self._ops, self._most = max(ops, 1), max(most, 1)

    def x(self, op: float) -> float:
        return round(_LEFT + _ROOM * op / self._ops, 1)

    def y(self, nbytes: float) -> float:
        return round(_TOP + _TALL * (1 - nbytes / (1.05 * self._most)), 1)


def _columns(totals: Sequence[int]) -> Iterator[int]:
    """Yield the ops that are shown: of many that share a column, that with the most."""
    columns = min(len(totals), _ROOM // 2)
    for column in range(columns):
        start = column * len(totals) // columns
        end = max(start + 1, (column + 1) * len(totals) // columns)
        yield max(range(start, end), key=totals.__getitem__)


def _areas(
    curves: Mapping[str, Sequence[int]], places: Sequence[int], scale: _Scale
) -> Iterator[str]:
    below = [0] * len(places)
    for name, curve in curves.items():
        above = [under + curve[at] for under, at in zip(below, places, strict=True)]
        upper = list(_steps(places, above, scale))
        lower = list(_steps(places, below, scale))
        points = " ".join(f"{x},{y}" for x, y in (*upper, *reversed(lower)))
        yield f'<polygon fill="{COLOURS.get(name, "#444")}" points="{points}"/>'
        below = above


def _steps(
    places: Sequence[int], heights: Sequence[int], scale: _Scale
) -> Iterator[tuple[float, float]]:
    """Yield the corners of a line that stays level from each op to the next."""
    before: float | None = None
    for place, height in zip(places, heights, strict=True):
        x, y = scale.x(place), scale.y(height)
        if y != before:
            if before is not None:
                yield x, before
            yield x, y
        before = y
    if before is not None:
        yield scale.x(places[-1] + 1), before


def _legend(curves: Mapping[str, Sequence[int]]) -> Iterator[str]:
    x = _LEFT
    for name in curves:
        colour = COLOURS.get(name, "#444")
        yield f'<rect x="{x}" y="{_TOP - 26}" width="11" height="11" fill="{colour}"/>'
        yield f'<text x="{x + 16}" y="{_TOP - 16}">{escape(name)}</text>'
        x += 30 + 7 * len(name)


def _grid(scale: _Scale, most: int) -> Iterator[str]:
    for nbytes in _ticks(most):
        y = scale.y(nbytes)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>'
        label = notation.size(nbytes)
        yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(label)}</text>'


def _ticks(most: int) -> list[int]:
    """Return some round numbers of bytes up to the most."""
    unit = 1
    while most >= 1024 * unit:
        unit *= 1024
    rough = max(most / unit / 4, 1e-9)
    ten = 1.0
    while rough >= 10 * ten:
        ten *= 10
    while rough < ten:
        ten /= 10
    step = next(ten * factor for factor in _STEPS if ten * factor >= rough) * unit
    count = int(1.05 * most / step)
    return [round(step * number) for number in range(count + 1)]


def _phases(phases: Sequence[str], scale: _Scale) -> Iterator[str]:
    """Name stretches of ops below the axis, where there is room for the name."""
    bottom = _HEIGHT - _BOTTOM
    yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}" stroke="black"/>'
    for phase, (start, end) in _stretches(phases):
        x, wide = scale.x(start), scale.x(end) - scale.x(start)
        if wide > 7 * len(phase):
            middle = round(x + wide / 2, 1)
            yield f'<text x="{middle}" y="{bottom + 18}" text-anchor="middle">{escape(phase)}</text>'
            yield f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom + 22}" stroke="#999" stroke-dasharray="2 3"/>'
    yield (
        f'<text x="{_WIDTH - _RIGHT}" y="{bottom + 38}" text-anchor="end" fill="#555">'
        f"{notation.plural(len(phases), 'op')}</text>"
    )


def _stretches(phases: Sequence[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    start = 0
    for phase, ops in groupby(phases):
        end = start + sum(1 for _ in ops)
        yield phase, (start, end)
        start = end


def _peak(at: int, most: int, said: str, scale: _Scale) -> Iterator[str]:
    x, y = scale.x(at + 0.5), scale.y(most)
    is_right = x > _LEFT + 0.6 * _ROOM
    anchor, away = ("end", -8) if is_right else ("start", 8)
    yield f'<circle cx="{x}" cy="{y}" r="4" fill="white" stroke="black" stroke-width="1.5"/>'
    where = f'x="{x + away}" y="{max(y - 6, _TOP + 2)}" text-anchor="{anchor}" font-weight="bold"'
    # Twice, as not all that show an SVG know how to paint the outline first.
    yield f'<text {where} fill="white" stroke="white" stroke-width="3">{escape(said)}</text>'
    yield f"<text {where}>{escape(said)}</text>"
