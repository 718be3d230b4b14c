from __future__ import annotations

import pytest
from rich.cells import cell_len

from raytune_rl.progress.columns import Column, table


def column(heading: str, *texts: str, **settings: object) -> Column:
    return Column(heading=heading, cells=[(text, "") for text in texts], **settings)  # type: ignore[arg-type]


def test_the_layout() -> None:
    found = table(
        [
            column("n", "1", "10"),
            column("weight\ndecay", "1e-3", "0.5", narrowest=7),
            column("why", "a", "b", left=True),
        ],
        24,
    )
    assert found.plain.splitlines() == [
        "     weight             ",
        " n    decay  why        ",
        "─" * 24,
        " 1     1e-3  a          ",
        "10      0.5  b          ",
    ]


@pytest.mark.parametrize("width", [0, 5, 12, 13, 30, 80])
def test_no_line_is_wider_than_the_table(width: int) -> None:
    columns = [column("a" * 30, "x" * 30), column("b", "日本語日本語日本語"), column("last", "y" * 90, left=True)]
    widest = max(map(cell_len, table(columns, width).plain.splitlines()[-1:]))
    assert widest <= max(width, 10 + 2 + 10 + 2)


def test_what_is_cut_says_so() -> None:
    line = table([column("a", "relu_squared", widest=6), column("b", "copy of 3", left=True)], 14).plain.splitlines()[
        -1
    ]
    assert line == "relu_…  copy …"
