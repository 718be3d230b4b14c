"""A table of short cells with a layout of our own.

The live screen is drawn four times per second, in the process that makes decisions. ``rich.table`` measures and wraps
every cell each time (some 30 ms for 20 members); the layout here takes a tenth of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

GAP = "  "


@dataclass(frozen=True, kw_only=True)
class Column:
    """Cells and their styles below a heading of one or two lines.

    Attributes:
        widest: the largest width in characters; longer cells are cut.
        narrowest: the smallest width, so that the column does not change its width with its values.
        left: whether cells are aligned to the left, otherwise to the right.
    """

    heading: str
    cells: Sequence[tuple[str, str]]
    widest: int = 10
    narrowest: int = 0
    left: bool = False

    @property
    def width(self) -> int:
        texts = (*self.heading.split("\n"), *(text for text, _ in self.cells))
        return max(self.narrowest, min(self.widest, max(map(cell_len, texts))))


def table(columns: Sequence[Column], width: int) -> Text:
    """The columns side by side, with a line below their headings. The last column gets the remaining width."""
    widths = [column.width for column in columns]
    widths[-1] = max(0, width - sum(widths[:-1]) - len(GAP) * (len(columns) - 1))
    headings = [column.heading.split("\n") for column in columns]
    lines = []
    for level in range(max(map(len, headings)), 0, -1):
        # headings of one line are on the lower line
        cells = [(heading[-level] if level <= len(heading) else "", "bold") for heading in headings]
        lines.append(_line(columns, widths, cells))
    lines.append(Text("─" * width, style="dim"))
    lines += [_line(columns, widths, cells) for cells in zip(*(column.cells for column in columns), strict=True)]
    text = Text("\n").join(lines)
    text.no_wrap, text.overflow = True, "crop"
    return text


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[tuple[str, str]]) -> Text:
    line = Text()
    for index, (column, width, (text, style)) in enumerate(zip(columns, widths, cells, strict=True)):
        line.append(GAP if index else "")
        line.append(_padded_or_cut(text, width, left=column.left), style=style)
    return line


def _padded_or_cut(text: str, width: int, *, left: bool) -> str:
    if cell_len(text) > width:
        # three dots would take too many characters
        return set_cell_size(text, width - 1) + "…" if width else ""
    padding = " " * (width - cell_len(text))
    return text + padding if left else padding + text
