"""Tables in Markdown, and pages of which parts are made by commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ldm.files import write_text
from ldm.util import UserError


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The rows as a table, the first one its head."""
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *others])


def replace_block(text: str, name: str, block: str) -> str:
    """The text with what stands between `<!-- name -->` and `<!-- end name -->` replaced. ValueError without these."""
    start, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"there is no block {name}")
    return f"{before}{start}{block}\n{end}{after}"


def replace_blocks(text: str, blocks: Mapping[str, str]) -> str:
    """The text with those of the blocks that it has brought up to date. ValueError if it has none of them."""
    own = [name for name in blocks if f"<!-- {name} -->" in text]
    if not own:
        raise ValueError(f"it has none of the blocks {', '.join(blocks)}")
    for name in own:
        text = replace_block(text, name, blocks[name])
    return text


def update_page(path: Path, blocks: Mapping[str, str]) -> None:
    """:func:`replace_blocks` of a file, all of it or nothing. UserError where that can't be done."""
    try:
        text = replace_blocks(path.read_text(encoding="utf-8"), blocks)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be brought up to date: {error}") from None
    write_text(path, text)
