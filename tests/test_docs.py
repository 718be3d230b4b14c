"""The documents keep what they promise: their links lead somewhere, and their Python snippets run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def prose_of(document: Path) -> str:
    """The text without its code blocks."""
    return BLOCK.sub("", document.read_text(encoding="utf-8"))


def script_of(document: Path) -> str:
    """The Python blocks of a document, as one script whose lines are where they are in the document; empty for none."""
    text = document.read_text(encoding="utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in BLOCK.finditer(text):
        if block[1] == "python":
            code = block[2].splitlines()
            first = text.count("\n", 0, block.start(2))
            lines[first : first + len(code)] = code
    return "\n".join(lines).rstrip()


def anchors_of(document: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = HEADING.findall(prose_of(document))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in LINK.findall(prose_of(document)):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or not target.is_relative_to(ROOT) or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert not broken


def test_every_document_can_be_reached_from_the_readme() -> None:
    linked = {link.partition("#")[0] for link in LINK.findall(prose_of(ROOT / "README.md"))}
    assert {name_of(document) for document in DOCUMENTS} - {"README.md"} <= linked


def call(*arguments: str, folder: Path) -> None:
    """Run this Python in ``folder``, which is also its home: a Tuner makes a folder there."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "HOME": str(folder), "MPLBACKEND": "agg"}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's ``exp.py`` and a short run of it, made by the command that the README gives."""
    folder = tmp_path_factory.mktemp("docs")
    first_block = next(block for block in BLOCK.findall((ROOT / "README.md").read_text()) if block[0] == "python")
    (folder / "exp.py").write_text(first_block[1], encoding="utf-8")
    shorter = [f"--set={change}" for change in ("population=2", "segments=2", "segment_length=5")]
    call("-m", "raytune_rl.run", "exp.py", "--out", "results/first", *shorter, folder=folder)
    shutil.copytree(folder / "results" / "first", folder / "results" / "second")
    return folder


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if script_of(d)], ids=name_of)
def test_python_snippets_run(document: Path, finished_run: Path) -> None:
    lines = script_of(document).split("\n")
    assert not lines[0], "a document begins with its title"
    lines[0] = "from tests.tune.trainables import Counter as MyTrainable"
    script = finished_run / f"{document.stem}.py"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    call(script.name, folder=finished_run)
