"""`python -m benchmarks.plot`: puts the table and the picture of results.json into docs/.

The picture is drawn by matplotlib, which the extra `bench` brings.
"""

import re
from collections.abc import Sequence
from typing import Any

from .peers import FLOOR, INCUMBENT, OURS
from .results import KEPT, ROOT, Part, Row, read
from .tables import KINDS, METRICS, quantity, shown, summary, times, title

PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "pictures" / "benchmarks.svg"
BEGIN, END = "<!-- made by python -m benchmarks.plot -->", "<!-- made until here -->"
CAPTION = "Time of a request in process, CPU time of one on the wire"
PANELS = (  # part and row, by number
    (("in-process-w", 1), ("in-process-a", 1)),
    (("in-process-w", 4), ("in-process-a", 4)),
    (("in-process-w", 6), ("in-process-a", 6)),
    (("wire-w", 0), ("wire-a", 0)),
)
COLOURS = {OURS: "#0969da", FLOOR: "#1a7f37"}
LONGEST = 12.0  # times ours: where a bar is cut off


def block(parts: Sequence[Part]) -> str:
    """What stands in docs/benchmarks.md between the marks."""
    sources: dict[str, dict[str, None]] = {}
    for part in parts:
        line = f"- {part.date[:10]}: `{part.command}`"
        sources.setdefault(part.environment, {})[line] = None
    origins = [f"With {where}:\n\n" + "\n".join(lines) for where, lines in sources.items()]
    image = f"![{CAPTION}]({PICTURE.relative_to(PAGE.parent).as_posix()})"
    table = summary(parts, (OURS, FLOOR, INCUMBENT, "native"))
    return "\n\n".join([BEGIN, image, table, *origins, END])


def with_block(text: str, made: str) -> str:
    """Raises ValueError if the text has no such place, or two."""
    text, count = re.subn(f"{BEGIN}.*?{END}", lambda _: made, text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{count} places between {BEGIN} and {END}")
    return text


def draw(parts: Sequence[Part]) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 8})
    figure, axes = pyplot.subplots(len(PANELS), 2, figsize=(9, 10), layout="constrained")
    named = {part.name: part for part in parts}
    for axis, (name, number) in zip(axes.flat, sum(PANELS, ()), strict=True):
        part = named[name]
        row = shown(part)[number]
        axis.set_title(f"{KINDS[name[-1]]}:\n{title(part, row)}", loc="left", fontweight="bold")
        panel(axis, row, next(iter(METRICS[name[:-2]])))
    figure.suptitle(f"{CAPTION}; shorter is better, the longest are cut off")
    figure.savefig(PICTURE, metadata={"Date": None, "Description": parts[0].date})


def panel(axis: Any, row: Row, metric: str) -> None:
    """The floor and ours first, then the others from the best to the worst."""
    found = {name: row.figures[name][metric] for name in row.figures}
    names = sorted(found, key=lambda name: (name != FLOOR, name != OURS, found[name].median))
    longest = LONGEST * found[OURS].median
    lengths = [min(found[name].median, longest) for name in names]
    bars = axis.barh(names, lengths, color=[COLOURS.get(name, "#818b98") for name in names])
    texts = [f"{quantity(f.median, metric)}, {times(f.of_ours)}" for f in map(found.get, names)]
    axis.bar_label(bars, texts, padding=3)
    axis.invert_yaxis()
    axis.set_xlim(right=max(lengths) * 1.5)
    axis.xaxis.set_visible(False)
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def main() -> None:
    parts = read(KEPT)
    draw(parts)
    PAGE.write_text(with_block(PAGE.read_text("utf-8"), block(parts)), "utf-8")


if __name__ == "__main__":
    main()
