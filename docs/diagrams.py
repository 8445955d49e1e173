"""A hook of MkDocs that draws the sequence diagrams of the pages.

The pages have them in Mermaid's language, which GitHub draws. The theme would load Mermaid from
another site; here each becomes an SVG in the page. It knows participants and their messages.
"""

import re
from html import escape
from typing import Any

COLUMN, ROW, HEAD, PAD = 280, 34, 44, 12
LETTER = 7
"""How wide one is, more or less."""
BESIDE = 36
"""Where the text of a message to oneself begins."""
HALO = "paint-order:stroke;stroke:var(--md-default-bg-color);stroke-width:5px"
"""Around words that cross a line."""
STYLE = (
    "width:100%;height:auto;font:13px var(--md-text-font-family,sans-serif);fill:currentColor;"
    "stroke:currentColor"
)
FENCE = re.compile(r"^```mermaid\nsequenceDiagram\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PARTICIPANT = re.compile(r"participant (\w+) as (.+)")
MESSAGE = re.compile(r"(\w+)(-->>|->>)(\w+): (.+)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What MkDocs calls with each page."""
    return FENCE.sub(lambda found: svg(found[1]), markdown)


def svg(source: str) -> str:
    """Raises ValueError at a line that is neither a participant nor a message."""
    middles: dict[str, int] = {}
    drawn: list[str] = []
    y, right = HEAD + ROW, 0
    for line in filter(None, map(str.strip, source.splitlines())):
        if found := PARTICIPANT.fullmatch(line):
            middle = COLUMN // 2 + COLUMN * len(middles)
            middles[found[1]] = middle
            drawn.append(box(middle, found[2]))
        elif found := MESSAGE.fullmatch(line):
            sender, arrow, receiver, text = found.groups()
            drawn.append(message(middles[sender], middles[receiver], y, text, "--" in arrow))
            if sender == receiver:
                right = max(right, middles[sender] + BESIDE + LETTER * len(text))
            y += ROW
        else:
            raise ValueError(f"{line!r} is neither a participant nor a message")
    lines = [
        f'<path d="M{x} {HEAD}V{y - ROW // 2}" stroke-opacity=".3" stroke-dasharray="4"/>'
        for x in middles.values()
    ]
    view = f"0 0 {max(right, COLUMN * len(middles))} {y - ROW // 2}"
    return f'<svg viewBox="{view}" role="img" style="{STYLE}">{"".join(lines + drawn)}</svg>'


def box(middle: int, name: str) -> str:
    width, height = COLUMN - 2 * PAD, HEAD - 2 * PAD + 8
    frame = f'<rect x="{middle - width // 2}" y="{PAD}" width="{width}" height="{height}" rx="4"'
    return f'{frame} fill="none"/>{words(middle, PAD + 19, name)}'


def message(start: int, end: int, y: int, text: str, is_dashed: bool) -> str:
    """An arrow with its text above it; one that stays has its text beside it."""
    dashes = ' stroke-dasharray="6 4"' if is_dashed else ""
    if start == end:
        path, tip, back = f"M{start} {y - 14}h28v12H{start + 6}", start, 7
        said = words(start + BESIDE, y - 4, text, "start")
    else:
        back = 7 if end < start else -7
        path, tip = f"M{start} {y}H{end + back}", end
        said = words((start + end) // 2, y - 7, text)
    level = y - 2 if start == end else y
    head = f'<path d="M{tip} {level}l{back} -4v8z"/>'
    return f'<path d="{path}" fill="none"{dashes}/>{head}{said}'


def words(x: int, y: int, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" style="{HALO}">{escape(text)}</text>'
