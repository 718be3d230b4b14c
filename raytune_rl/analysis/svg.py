"""Figures as SVG elements for a page: small, with unique identifiers, and with text kept as text."""

from __future__ import annotations

import io
import re
import warnings

import matplotlib
from markupsafe import Markup, escape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from raytune_rl.analysis.plots.style import STYLE

POINTS = 72  # per inch, the unit of SVG figures
PAD = 3.0  # points of margin

_METADATA = re.compile(r"<metadata>.*?</metadata>", re.S)
_LONG_NUMBER = re.compile(r"(-?\d+\.\d{2})\d+")
_ID = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^)"]+)')
_HEAD = re.compile(r"<svg\b[^>]*>")
_VIEW_BOX = re.compile(r'viewBox="([^"]*)"')


def inline_svg(figure: Figure, *, key: str, label: str) -> Markup:
    """The figure as an ``<svg>`` element.

    Args:
        key: prefix of all identifiers in the figure, so that they differ from those of other figures on the page.
        label: describes the figure for screen readers.
    """
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # Letters missing from matplotlib's font do not matter: the browser uses fonts of its own.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        _fit(figure)
        # ``savefig`` would draw the whole figure one more time.
        FigureCanvasSVG(figure).print_svg(buffer, metadata=no_metadata)  # type: ignore[no-untyped-call]
    text = buffer.getvalue()
    text = _METADATA.sub("", text[text.index("<svg") :])
    used = set(_REFERENCE.findall(text))
    text = _ID.sub(lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", text)
    text = _REFERENCE.sub(lambda m: m[0][: m.start(1) - m.start()] + f"{key}-{m[1]}", text)
    text = _shortened(text)
    head = _HEAD.search(text)
    assert head is not None
    box = _VIEW_BOX.search(head[0])
    assert box is not None
    opening = (
        f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(label)}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Markup(opening + text[head.end() :])


def _fit(figure: Figure) -> None:
    """Make room for the labels of a figure with a single pair of axes. The layout engine gives the same result, but
    takes three times as long. Figures with several are left to it."""
    if len(figure.axes) != 1:
        return
    figure.set_layout_engine("none")
    figure.set_dpi(POINTS)
    ax = figure.axes[0]
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    inner, legend = ax.get_window_extent(renderer), ax.get_legend()
    needed = ax.get_tightbbox(renderer, bbox_extra_artists=[])
    if needed is None:
        return
    width, height = figure.bbox.width, figure.bbox.height
    above = legend.get_window_extent(renderer) if legend is not None else None
    left, bottom = inner.x0 - needed.x0 + PAD, inner.y0 - needed.y0 + PAD
    right, top = needed.x1 - inner.x1 + PAD, max(needed.y1, inner.y1 if above is None else above.y1) - inner.y1 + PAD
    across, up = max(width - left - right, 0.1 * width), max(height - bottom - top, 0.1 * height)
    ax.set_position((left / width, bottom / height, across / width, up / height))
    if legend is not None and above is not None:
        # A legend too long to fit above the plot begins to the left of it.
        excess = min(max(left + above.width + PAD - width, 0.0), left)
        legend.set_bbox_to_anchor((-excess / across, 1.0), transform=ax.transAxes)


def _shortened(text: str) -> str:
    """The SVG with coordinates cut to a hundredth of a point. Numbers in texts are kept: only attributes change."""
    return re.sub(r'(?<= )(?:d|x|y|points|transform)="[^"]*"', lambda m: _LONG_NUMBER.sub(r"\1", m[0]), text)
