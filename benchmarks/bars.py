"""Values in, bars out: panels of horizontal bars as an SVG document.

A picture brings its background along, so it is readable on any page, and turns dark where the
reader's system is. It needs no font but the reader's own, no script and no other file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

WIDTH = 760
COLUMNS = 2
MARGIN = 16
HEAD_HEIGHT = 48  # title and subtitle
PANEL_HEAD_HEIGHT = 24
ROW_HEIGHT = 17
BAR_HEIGHT = 11
LABEL_WIDTH = 96
TEXT_WIDTH = 100  # beside the longest bar
GAP = 20  # between panels
BASELINE = 10  # of a row's text below its top
BREAK_AT = 40.0  # a bar so many times longer than the next is broken off
BREAK_WIDTH = 4
BREAK_SCALE = 2.0  # how many times the next longest fills the room then

PANEL_WIDTH = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
LONGEST_BAR = PANEL_WIDTH - LABEL_WIDTH - TEXT_WIDTH

Colours = dict[str, str]

LIGHT: Colours = {
    "page": "#ffffff",
    "words": "#1f2328",
    "ours": "#0969da",
    "floor": "#1a7f37",
    "peer": "#818b98",
}
DARK: Colours = {
    "page": "#0d1117",
    "words": "#e6edf3",
    "ours": "#4493f8",
    "floor": "#3fb950",
    "peer": "#7d8590",
}


@dataclass(frozen=True)
class Bar:
    """A labelled value; `kind`, one of "ours", "floor" and "peer", gives its colour."""

    label: str
    value: float | None  # None: no bar, the text says why
    text: str
    kind: str


@dataclass(frozen=True)
class Panel:
    """Bars of one scale, which begins at zero."""

    title: str
    bars: Sequence[Bar]

    @property
    def height(self) -> float:
        return PANEL_HEAD_HEIGHT + ROW_HEIGHT * len(self.bars)

    @property
    def longest(self) -> float:
        """The value that fills the room; one outlier does not crush the others."""
        values = sorted([0.0, 0.0, *(bar.value or 0.0 for bar in self.bars)])
        second, first = values[-2:]
        return second * BREAK_SCALE if first > second * BREAK_AT and second else first

    def is_broken(self, bar: Bar) -> bool:
        return (bar.value or 0.0) > self.longest

    def bar_length(self, bar: Bar) -> float:
        """In pixels."""
        share = min(1.0, (bar.value or 0.0) / self.longest) if self.longest else 0.0
        return round(LONGEST_BAR * share, 1)


def picture(title: str, subtitle: str, panels: Sequence[Panel]) -> str:
    """The SVG document."""
    rows = [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]
    heights = [max(panel.height for panel in row) for row in rows]
    height = HEAD_HEIGHT + sum(heights) + GAP * len(rows)
    svg = ElementTree.Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height:g}",
        width=f"{WIDTH}",
        height=f"{height:g}",
        role="img",
    )
    ElementTree.SubElement(svg, "title").text = title
    ElementTree.SubElement(svg, "style").text = style()
    add_box(svg, "page", 0, 0, WIDTH, height)
    add_words(svg, "title", MARGIN, 22, title)
    add_words(svg, "words", MARGIN, 38, subtitle)
    top: float = HEAD_HEIGHT
    for row, row_height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            add_panel(svg, panel, MARGIN + column * (PANEL_WIDTH + GAP), top)
        top += row_height + GAP
    ElementTree.indent(svg)
    return ElementTree.tostring(svg, encoding="unicode") + "\n"


def add_panel(svg: ElementTree.Element, panel: Panel, left: float, top: float) -> None:
    add_words(svg, "title", left, top + BASELINE, panel.title)
    for number, bar in enumerate(panel.bars):
        row_top = top + PANEL_HEAD_HEIGHT + number * ROW_HEIGHT - ROW_HEIGHT / 2
        start, length = left + LABEL_WIDTH, panel.bar_length(bar)
        weight = "strong" if bar.kind == "ours" else "words"
        add_words(svg, f"{weight} label", start - 6, row_top + BASELINE, bar.label)
        add_box(svg, bar.kind, start, row_top, length, BAR_HEIGHT)
        if panel.is_broken(bar):
            add_box(svg, "page", start + length * 0.9, row_top, BREAK_WIDTH, BAR_HEIGHT)
        add_words(svg, weight, start + length + 6, row_top + BASELINE, bar.text)


def add_words(svg: ElementTree.Element, kind: str, x: float, y: float, words: str) -> None:
    attributes = {"class": kind, "x": f"{x:g}", "y": f"{y:g}"}
    ElementTree.SubElement(svg, "text", attributes).text = words


def add_box(
    svg: ElementTree.Element, kind: str, x: float, y: float, width: float, height: float
) -> None:
    attributes = {"class": kind, "x": f"{x:g}", "y": f"{y:g}"}
    attributes |= {"width": f"{width:g}", "height": f"{height:g}"}
    ElementTree.SubElement(svg, "rect", attributes)


def style() -> str:
    fonts = "text{font:11px -apple-system,'Segoe UI',Helvetica,Arial,sans-serif}"
    weights = ".title{font-size:13px;font-weight:600}.strong{font-weight:600}"
    return (
        f"{fonts}{weights}.label{{text-anchor:end}}{colour_rules(LIGHT)}"
        f"@media(prefers-color-scheme:dark){{{colour_rules(DARK)}}}"
    )


def colour_rules(colours: Colours) -> str:
    boxes = [f".{name}{{fill:{colour}}}" for name, colour in colours.items() if name != "words"]
    return f"text{{fill:{colours['words']}}}{''.join(boxes)}"
