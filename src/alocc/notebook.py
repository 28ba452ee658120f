"""Small HTML tables, by which notebooks show results: no script, no style, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(caption: str, rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """A table of texts; a row of one entry is a heading of those below it."""
    rows = list(rows)
    width = max(map(len, [header, *rows]))
    lines = [f"<caption>{escape(caption)}</caption>"]
    lines += [_line(header, "th")] if header else []
    for row in rows:
        lines.append(_line(row, f'th colspan="{width}"' if len(row) == 1 < width else "td"))
    return "\n".join(["<table>", *lines, "</table>"])


def _line(cells: Sequence[str], tag: str) -> str:
    closing = tag.partition(" ")[0]
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{closing}>' for cell in cells)}</tr>"
