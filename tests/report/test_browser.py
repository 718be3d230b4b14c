"""The page in a real Chromium: nothing to complain about, at the width of a phone and of a desktop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raytune_rl.analysis import Run
from raytune_rl.analysis.page import page
from tests.analysis.runs import write_run
from tests.report.browser import DESKTOP, NAMES, PHONE, Browser, chromium, find_chromium

FOUND = find_chromium()
pytestmark = pytest.mark.skipif(FOUND is None, reason=f"needs a Chromium; none of {', '.join(NAMES)} is installed")

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert FOUND is not None
    with chromium(FOUND) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(directories: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    named = write_run(folder / "named", population=2, segments=3, described={"name": EVIL + "x" * 80})
    runs = [Run.load(directory) for directory in directories]
    contents = {"one": runs[0], "several": runs, "named": Run.load(named)}
    for name, content in contents.items():
        (folder / f"{name}.html").write_text(page(content))
    return {name: folder / f"{name}.html" for name in contents}


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", ["one", "several", "named"])
def test_it_is_shown_without_a_complaint(
    browser: Browser, pages: dict[str, Path], name: str, size: tuple[int, int]
) -> None:
    view = browser.look(pages[name], size)
    assert view.problems == [] and view.alerts == []
    assert view.requests == [pages[name].as_uri()]  # it loads nothing
    assert view.content_width <= size[0]  # nobody has to scroll sideways
    assert {"one": "paper reached a loss", "several": "2 runs compared", "named": EVIL}[name] in view.text
    assert view.image.startswith(b"\x89PNG") and len(view.image) > 20_000


def test_the_browser_does_notice(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<img src='missing.png'><script>console.error('x'); alert(3); throw 1</script><p style='width:2000px'>y"
    )
    view = browser.look(bad, PHONE)
    assert len(view.problems) >= 3 and len(view.requests) == 2 and view.alerts == ["3"]
    assert view.content_width >= 2000
