"""Figures as SVG that can stand inside a page: small, without identifiers that clash, and with text as text."""

from __future__ import annotations

import io
import re
import warnings

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from raytune_rl.analysis.plots.style import STYLE

_METADATA = re.compile(r"<metadata>.*?</metadata>", re.S)
_LONG_NUMBER = re.compile(r"(-?\d+\.\d{2})\d+")
_ID = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^)"]+)')
_HEAD = re.compile(r"<svg\b[^>]*>")
_VIEW_BOX = re.compile(r'viewBox="([^"]*)"')


def inline_svg(figure: Figure, *, key: str, label: str) -> Markup:
    """The figure as an ``<svg>`` element.

    Args:
        key: put before the identifiers inside, so that they differ from those of other figures on the page.
        label: what it shows, for those who do not see it.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # The reader's browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(buffer, format="svg", metadata=nothing)
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


def _shortened(text: str) -> str:
    """Coordinates to a hundredth of a point. Only attributes are touched: a text may hold a long number."""
    return re.sub(r'(?<= )(?:d|x|y|points|transform)="[^"]*"', lambda m: _LONG_NUMBER.sub(r"\1", m[0]), text)
