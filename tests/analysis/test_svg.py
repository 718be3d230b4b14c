from __future__ import annotations

import re
import warnings
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from raytune_rl.analysis import Run, plots
from raytune_rl.analysis.svg import inline_svg

NAMESPACE = 'xmlns="http://www.w3.org/2000/svg" '


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(text).replace("<svg ", f"<svg {NAMESPACE}", 1))


def test_it_is_well_formed_and_says_what_it_shows(run: Run) -> None:
    text = inline_svg(plots.lineage(run), key="a", label='who "copied" <whom>')
    root = parsed(text)
    assert root.get("role") == "img" and root.get("aria-label") == 'who "copied" <whom>'
    assert root.get("viewBox") and root.get("width") is None
    assert "<?xml" not in text and "metadata" not in text


def test_identifiers_are_the_figures_own_and_all_found(run: Run) -> None:
    figures = {key: inline_svg(plots.schedule(run, "lr"), key=key, label="x") for key in ("a", "b")}
    found = {key: set(re.findall(r' id="([^"]*)"', text)) for key, text in figures.items()}
    assert found["a"] and not found["a"] & found["b"]
    for key, text in figures.items():
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text)) == found[key]


def test_text_stays_text_and_nothing_is_loaded(run: Run) -> None:
    text = inline_svg(plots.anytime(run), key="a", label="x")
    assert "segments trained, all members" in text
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses == {"http://www.w3.org/1999/xlink"}  # the name of a namespace, which nothing loads
    assert "data:" not in text and "<image" not in text


@pytest.mark.parametrize("label", ["x" * 60, "short"])
def test_everything_lies_inside(label: str) -> None:
    figure = Figure(figsize=(4, 3), layout="constrained")
    ax = figure.add_subplot()
    ax.plot([0, 1], [0, 1], label=label[:40])
    ax.set_ylabel("value")
    ax.set_yticks([0, 1], ["a long tick label", "b"])
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1))
    inline_svg(figure, key="a", label="x")
    box = figure.bbox
    for artist in (ax.yaxis, ax.xaxis, ax.get_legend()):
        extent = artist.get_window_extent() if artist is ax.get_legend() else artist.get_tightbbox()
        assert extent.x0 >= -0.5 and extent.y0 >= -0.5 and extent.y1 <= box.height + 0.5
        assert extent.x1 <= box.width + 0.5 or extent.width > box.width


def test_letters_that_the_font_lacks_are_left_to_the_reader() -> None:
    figure = Figure()
    figure.add_subplot().set_title("学習率")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "学習率" in inline_svg(figure, key="a", label="x")


def test_long_numbers_in_texts_are_kept() -> None:
    figure = Figure()
    figure.add_subplot().set_title('d="0.123456"')
    assert "0.123456" in inline_svg(figure, key="a", label="x")
