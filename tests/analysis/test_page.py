from __future__ import annotations

import base64
import json
import logging
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from raytune_rl import BadInput, Fixed
from raytune_rl.analysis import Run, Schedule
from raytune_rl.analysis.page import page, try_report, write_report
from raytune_rl.analysis.verdict import verdict
from raytune_rl.rundir.layout import RunDirectory, SchemaError
from tests.analysis.runs import edit_json, write_run

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;{{ 7*7 }}'
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Reader(HTMLParser):
    """Elements, texts, and whether every element that was opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = [""]
        self.feed(html)
        assert self._open == [""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1] != "style":
            self.texts.append(data)

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return page(run)


def test_the_verdict_comes_first_then_table_plots_schedules_configuration(html: str, run: Run) -> None:
    first, second = verdict(run)
    wanted = [first, second, "best by loss", "What happened", "Best so far", "Schedules", "Configuration"]
    text = Reader(html).text
    places = [text.index(part) for part in wanted]
    assert places == sorted(places)
    assert text.index(first) < 200


def test_the_page_is_complete_in_itself(html: str) -> None:
    reader = Reader(html)
    assert not {"script", "link", "iframe", "object", "embed", "base", "img", "image"} & {t for t, _ in reader.elements}
    policy = next(m for m in reader.tags("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] is not None and policy["content"].startswith("default-src 'none'")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in reader.tags("meta")
    for _, attributes in reader.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:application/json;base64,"))
    assert not re.search(r"url\((?!#)|@import", html)
    assert "@media print" in html and "@media (max-width" in html


def test_identifiers_are_unique(html: str) -> None:
    found = [a["id"] for _, a in Reader(html).elements if a.get("id")]
    assert len(found) == len(set(found)) > 0


def test_every_figure_has_a_title_a_caption_and_words_for_it(html: str, run: Run) -> None:
    reader = Reader(html)
    assert len(reader.tags("figure")) == len(reader.tags("figcaption")) == len(reader.tags("svg")) == 7 + 4
    assert all(svg["aria-label"] and svg["role"] == "img" for svg in reader.tags("svg"))
    for name in run.hyperparameters:
        assert f"Schedule of {name}" in html or f'aria-label="{name}' in html


def test_the_table_holds_both_sides(html: str) -> None:
    text = Reader(html).text
    assert "random search" in text and "test_accuracy 0.91 0.9 " in text


def test_the_floor_is_told(tmp_path: Path) -> None:
    """A member that lost what it had after a move, one run that has no floor, and one whose floor had nothing to do."""
    collapse = {(2, 6): {"metrics": {"loss": 9.0}}}
    run = Run.load(write_run(tmp_path / "acted", faults=collapse))
    (back,) = run.lineage[(run.lineage["kind"] == "floor") & (run.lineage["receiver"] == 2)].itertuples()
    assert back.segment == 7 and back.value_before == 9.0 and back.donor == 2
    text = Reader(page(run)).text
    assert "The floor acted 1 time: after a change" in text
    assert "member 2 before segment 7 (from 9 back to " in text
    calm = Run.load(write_run(tmp_path / "calm", agent=Fixed()))
    assert "The floor never acted" in Reader(page(calm)).text
    assert "The floor" not in Reader(page(Run.load(write_run(tmp_path / "none", floor=None)))).text


def test_the_schedule_can_be_saved_from_the_page(html: str, run: Run) -> None:
    (link,) = (a for a in Reader(html).tags("a") if "download" in a)
    assert link["href"] is not None
    saved = base64.b64decode(link["href"].split(",", 1)[1]).decode()
    assert Schedule.from_json(saved) == run.schedule()


def test_what_users_wrote_is_shown_and_never_run(tmp_path: Path) -> None:
    directory = write_run(
        tmp_path / "run",
        segments=4,
        population=3,
        described={"name": EVIL, "versions": {EVIL: EVIL}, "hardware": {"cpu": EVIL, "gpus": [{"name": EVIL}]}},
    )
    run = Run.load(directory)
    odd = {"hp/lr": f"hp/{EVIL}", "metric/loss": f"metric/{EVIL}"}
    evil = Run(
        directory=EVIL,
        experiment={**run.experiment, "experiment": {**run.fields, "metric": EVIL, EVIL: [EVIL]}},
        segments=run.segments.rename(columns=odd).assign(trial_id=EVIL, node=EVIL, **{"hp/init": EVIL}),
        decisions=run.decisions.rename(columns=lambda name: str(name).replace("rank", EVIL)),
    )
    for html in (page(evil), page([evil, evil])):
        reader = Reader(html)
        assert not {"script", "img"} & {tag for tag, _ in reader.elements}
        assert EVIL in reader.text  # as text
        assert "<script" not in html


DIVERGED = {"metrics": {"loss": float("nan")}, "status": "diverged"}


@pytest.mark.parametrize(
    "changes",
    [
        {"population": 1, "segments": 1},
        {"population": 48, "segments": 4},
        {"population": 2, "segments": 3, "metric": "accuracy", "mode": "max", "describe_space": False},
        {"population": 2, "segments": 4, "faults": {(0, 1): {"status": "hung", "metrics": {}}}, "finished": False},
        {"population": 1, "segments": 3, "faults": {(0, segment): DIVERGED for segment in range(3)}},
    ],
    ids=["tiny", "crowd", "maximised, space unknown", "a hang, running", "all diverged"],
)
def test_any_run_makes_a_good_page(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = Run.load(write_run(tmp_path / "run", **changes))
    text = Reader(page(run)).text
    assert verdict(run)[0] in text
    assert not re.search(r"\b(nan|NaN|None|<NA>|inf)\b", text)


def test_a_run_that_has_just_begun_has_a_page(directory: Path, tmp_path: Path) -> None:
    shutil.copy(directory / "experiment.json", tmp_path)
    reader = Reader(page(Run.load(tmp_path)))
    assert "paper has trained nothing yet." in reader.text


def test_several_runs_are_compared(run: Run, other: Run, html: str) -> None:
    compared = page([other, run])
    text = Reader(compared).text
    assert text.index("Of 2 runs, PBT(quantile=0.25) reached the best loss") < 100
    assert text.index("PBT(quantile=0.25): who copied whom") < text.index("Random: who copied whom")
    differing = text[text.index("Configuration: what differs") :]
    assert "agent raytune_rl.controller.policies:PBT raytune_rl.controller.policies:Random" in differing
    assert "metric" not in differing and "fields are the same" in differing
    assert page([run]) == html
    with pytest.raises(BadInput):
        page([])


def test_the_report_lies_in_the_run_directory(directory: Path, tmp_path: Path, html: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    assert write_report(copy) == str(copy / "report.html")
    # The page names its own directory; all else is the same.
    assert (copy / "report.html").read_text() == html.replace(str(directory), str(copy))
    assert len(html) < 3_000_000
    there = RunDirectory("copy", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))
    (copy / "report.html").unlink()
    write_report(there)
    assert (copy / "report.html").exists()


def test_a_report_that_cannot_be_made_is_a_warning(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    edit_json(copy / "summary.json", schema_version=99)
    with pytest.raises(SchemaError):
        write_report(copy)
    with caplog.at_level(logging.WARNING, "raytune_rl"):
        assert try_report(copy) is None
    assert (
        len(caplog.records) == 1 and "newer raytune_rl" in caplog.text and "python -m raytune_rl.report" in caplog.text
    )
    edit_json(copy / "summary.json", schema_version=1)
    edit_json(copy / "summary.json", best=[], timing="?")  # nonsense that no reader expects
    assert try_report(copy) is None
    assert json.loads((copy / "experiment.json").read_text())["name"] == "paper"  # nothing else was touched
