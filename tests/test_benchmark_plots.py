"""Values in, bars and tables out; and README.md shows what the kept results say."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import bars, plot, readme
from benchmarks.bars import Bar, Panel, picture
from benchmarks.results import Part, Report, Row

SVG = "{http://www.w3.org/2000/svg}"


def report_of(*parts: Part) -> Report:
    return Report(
        date="2026-01-02T03:04:05+00:00",
        command=["python", "-m", "benchmarks", "--peers", "ours,native gthread"],
        machine={"implementation": "CPython", "python": "3.11.7", "cores": 2, "processor": "Z80"},
        versions={"wsgi_asgi_bridge": "0.1.0", "a2wsgi": "1.10.10", "granian": None},
        parts=list(parts),
    )


def row_of(case: str, loop: str | None = None, load: int = 1, **contenders: float) -> Row:
    samples = {name: {"seconds": [seconds] * 3} for name, seconds in contenders.items()}
    return Row(case, loop, load, samples)


def boxes(svg: str, kind: str) -> list[dict[str, float]]:
    """Place and size of the bars of one kind."""
    keys = ("x", "y", "width", "height")
    return [
        {key: float(rect.attrib[key]) for key in keys}
        for rect in ElementTree.fromstring(svg).iter(f"{SVG}rect")
        if rect.attrib["class"] == kind
    ]


def words(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


# Bars


def panel_of(*values: float | None) -> Panel:
    return Panel("a panel", [Bar(f"peer {v}", v, f"{v} ms", "peer") for v in values])


def test_bars_are_as_long_as_their_values_and_say_them() -> None:
    svg = picture("title", "subtitle", [panel_of(1.0, 2.0, 4.0)])
    lengths = [box["width"] for box in boxes(svg, "peer")]
    assert lengths == pytest.approx([lengths[2] / 4, lengths[2] / 2, bars.LONGEST_BAR], abs=0.1)
    assert words(svg)[:3] == ["title", "subtitle", "a panel"]
    assert {"1.0 ms", "2.0 ms", "4.0 ms", "peer 2.0"} < set(words(svg))


def test_who_has_no_value_has_words_and_no_bar() -> None:
    svg = picture(
        "", "", [Panel("", [Bar("x", 3.0, "3", "peer"), Bar("y", None, "fails", "peer")])]
    )
    assert [box["width"] for box in boxes(svg, "peer")] == [
        pytest.approx(bars.LONGEST_BAR, 0.01),
        0,
    ]
    assert "fails" in words(svg)
    assert boxes(picture("", "", [panel_of(None)]), "peer")[0]["width"] == 0


def test_an_outlier_is_broken_off_and_the_others_stay_comparable() -> None:
    svg = picture("", "", [panel_of(1.0, 2.0, 500.0)])
    one, two, outlier = (box["width"] for box in boxes(svg, "peer"))
    assert two == pytest.approx(2 * one, abs=0.1)
    assert two < outlier == pytest.approx(bars.LONGEST_BAR, abs=0.1)
    page, gap = boxes(svg, "page")
    assert page["x"] < gap["x"] < gap["x"] + gap["width"] < boxes(svg, "peer")[2]["x"] + outlier
    assert len(boxes(picture("", "", [panel_of(1.0, 2.0, 4.0)]), "page")) == 1


def test_panels_stand_side_by_side_within_the_page() -> None:
    svg = picture("", "", [panel_of(1.0, 2.0), panel_of(3.0), panel_of(4.0, 5.0, 6.0)])
    (page,) = boxes(svg, "page")
    left_1, left_2, right, below, *_ = boxes(svg, "peer")
    assert left_1["x"] == left_2["x"] == below["x"] < right["x"]
    assert left_1["y"] == right["y"] < left_2["y"] < below["y"]
    for box in boxes(svg, "peer"):
        assert box["x"] + box["width"] + bars.TEXT_WIDTH <= page["width"]
        assert box["y"] + box["height"] < page["height"]


def test_any_words_make_well_formed_xml() -> None:
    assert 'a < b & "c"' in words(picture("", "", [Panel('a < b & "c"', [])]))


def test_a_picture_needs_nothing_from_elsewhere() -> None:
    svg = picture("title", "subtitle", [panel_of(1.0)])
    assert svg.count("http") == 1  # the namespace
    assert not re.search(r"url\(|@import|@font-face|href|<script", svg)


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colours", [bars.LIGHT, bars.DARK], ids=["light", "dark"])
def test_words_and_bars_stand_out_from_the_page(colours: bars.Colours) -> None:
    """WCAG 2 asks for 4.5 to 1 for words, 3 to 1 for what else carries meaning."""
    page = luminance(colours["page"])
    for name, colour in colours.items():
        darker, lighter = sorted([page, luminance(colour)])
        if name != "page":
            ratio = (lighter + 0.05) / (darker + 0.05)
            assert ratio >= (4.5 if name == "words" else 3.0), (name, ratio)


def test_a_dark_page_is_only_for_who_asked_for_one() -> None:
    before, _, after = bars.style().partition("@media(prefers-color-scheme:dark)")
    assert bars.LIGHT["page"] in before
    assert bars.DARK["page"] not in before
    assert bars.DARK["page"] in after


# What is drawn


CHOICE = plot.Choice("in-process-w", "hello", 10, "seconds", ", 10 in flight")


def test_a_panel_begins_with_the_floor_and_ours_and_ends_with_who_failed() -> None:
    row = row_of("hello", "uvloop", 10, slow=9e-3, ours=2e-6, fast=3e-6, floor=1e-6)
    row.refused = {"liar": "wrong: status 500", "stranger": "absent: not installed"}
    panel = plot.panel(CHOICE, row)
    assert panel.title == "hello, 10 in flight, uvloop"
    assert [bar.label for bar in panel.bars] == ["floor", "ours", "fast", "slow", "liar"]
    assert [bar.kind for bar in panel.bars] == ["floor", "ours", "peer", "peer", "peer"]
    assert [bar.text for bar in panel.bars] == [
        "1.00 \N{MICRO SIGN}s, 0.50x",
        "2.00 \N{MICRO SIGN}s",
        "3.00 \N{MICRO SIGN}s, 1.50x",
        "9.00 ms, 4500x",
        "fails",
    ]


def test_the_row_on_uvloop_is_drawn_where_there_is_one() -> None:
    on_asyncio, on_uvloop = row_of("hello", "asyncio", 10), row_of("hello", "uvloop", 10)
    others = [row_of("hello", "uvloop", 1), row_of("POST", "uvloop", 10)]
    for rows in ([on_asyncio, on_uvloop, *others], [on_uvloop, *others, on_asyncio]):
        assert plot.chosen_row(CHOICE, [Part("in-process-w", "", [], rows)]) is on_uvloop
    assert plot.chosen_row(CHOICE, [Part("in-process-w", "", [], [on_asyncio])]) is on_asyncio
    assert plot.chosen_row(CHOICE, [Part("in-process-a", "", [], [on_uvloop])]) is None


def test_what_was_not_measured_is_not_drawn() -> None:
    part = Part("in-process-w", "", [], [row_of("hello", "uvloop", 10, ours=1e-6)])
    svg = plot.drawn(plot.DRAWINGS[0], [report_of(part)])
    assert len(boxes(svg, "ours")) == 1
    assert "2026-01-02" in " ".join(words(svg))


# Tables


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def lines_of(*parts: Part) -> list[list[str]]:
    return [cells(line) for line in readme.tables([report_of(*parts)]).splitlines()]


def test_in_process_figures_of_both_loops_stand_in_one_line() -> None:
    rows = [
        row_of("hello", "asyncio", 10, ours=20e-6, floor=10e-6, a2wsgi=100e-6),
        row_of("hello", "uvloop", 10, ours=10e-6, a2wsgi=30e-6),
    ]
    micro = "\N{MICRO SIGN}s"
    expected = ["WSGI app: hello, 10 at once"]
    expected += [f"20.0 {micro}", "2.00x", "5.00x", f"10.0 {micro}", "-", "3.00x"]
    assert expected in lines_of(Part("in-process-w", "", [], rows))


def test_wire_figures_are_beside_the_incumbent_and_a_native_server() -> None:
    row = Row("FastAPI hello", None, 32)
    for name, rate, cpu in (
        ("ours", 300, 1e-3),
        ("a2wsgi", 100, 4e-3),
        ("floor", 600, 5e-4),
        ("native uvicorn", 600, 5e-4),
    ):
        row.samples[name] = {"requests_per_second": [rate] * 2, "cpu_seconds": [cpu] * 2}
    expected = ["FastAPI hello, 32 connections", "300", "3.00x", "0.50x"]
    assert [*expected, "1.00 ms", "2.00x", "4.00x", "0.50x"] in lines_of(
        Part("wire-a", "", [], [row])
    )


def test_hostile_figures_tell_who_was_answered_and_how_much_later() -> None:
    row = Row("50 open streams", None, 50)
    row.samples = {"ours": {"answered": [1.0], "times_idle": [1.26]}, "a2wsgi": {"answered": [0.0]}}
    row.refused = {"native gthread": "did not start: no such file"}
    expected = ["ASGI app: 50 open streams", "100%, 1.3x", "0%", "fails"]
    assert expected in lines_of(Part("hostile-a", "", [], [row]))


def test_why_somebody_failed_is_told_once() -> None:
    rows = [row_of("hello", loop, ours=1e-6) for loop in ("asyncio", "uvloop")]
    for row in rows:
        row.refused = {"liar": "wrong: status 500"}
    text = readme.tables([report_of(Part("in-process-w", "", [], rows))])
    assert "\n- Not measured: liar (all): wrong: status 500\n" in text


def test_the_tables_end_with_date_command_machine_and_versions() -> None:
    text = readme.tables([report_of()])
    assert "- 2026-01-02: `python -m benchmarks --peers 'ours,native gthread'`" in text
    assert "CPython 3.11.7 on 2 cores (Z80), wsgi_asgi_bridge 0.1.0, a2wsgi 1.10.10:" in text


def test_a_report_is_read_as_it_was_written() -> None:
    row = row_of("hello", "asyncio", 1, ours=1.2345e-05, floor=2.0)
    row.refused = {"liar": "wrong: [1, 2,  3]"}
    report = report_of(Part("in-process-w", "a title", ["a note"], [row]))
    assert Report.from_text(report.as_text()) == report
    with pytest.raises(ValueError, match="format"):
        Report.from_text(json.dumps({"format": 0}))


# Files


def test_the_block_is_put_between_the_marks_and_nowhere_else() -> None:
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    made = readme.with_block(text, r"new \1")
    assert made == f"before\n{readme.BEGIN}\n\nnew \\1\n\n{readme.END}\nafter\n"
    assert readme.with_block(made, r"new \1") == made
    for wrong in ("no marks", text + text):
        with pytest.raises(ValueError, match="places between"):
            readme.with_block(wrong, "new")


MADE = [*(plot.RESULTS / drawing.file for drawing in plot.DRAWINGS), plot.README]


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_pictures_and_readme_are_what_the_kept_results_make_of_them(path: Path) -> None:
    """After a change of the results or of the drawing: python -m benchmarks.plot."""
    assert path.read_text(encoding="utf-8") == plot.kept()[path]


@pytest.mark.parametrize("drawing", plot.DRAWINGS, ids=lambda drawing: drawing.file)
def test_the_kept_results_fill_every_panel(drawing: plot.Drawing) -> None:
    svg = (plot.RESULTS / drawing.file).read_text(encoding="utf-8")
    assert len(boxes(svg, "ours")) == len(drawing.choices)


def test_no_part_comes_from_two_files(tmp_path: Path) -> None:
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file in files:
        file.write_text(report_of(Part("wire-w", "", [], [])).as_text())
    assert len(plot.read_reports(files[:1])) == 1
    with pytest.raises(ValueError, match="more than one file: wire-w"):
        plot.read_reports(files)


def test_other_results_are_drawn_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme_before = plot.README.read_bytes()
    part = Part("in-process-w", "", [], [row_of("hello", "uvloop", 10, ours=1e-6)])
    (tmp_path / "run.json").write_text(report_of(part).as_text())
    monkeypatch.setattr("sys.argv", ["plot", str(tmp_path / "run.json"), "--to", str(tmp_path)])
    plot.main()
    assert {path.name for path in tmp_path.glob("*.svg")} == {d.file for d in plot.DRAWINGS}
    assert "WSGI app: hello, 10 at once" in capsys.readouterr().out
    assert plot.README.read_bytes() == readme_before
