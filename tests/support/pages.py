"""README.md and the pages of docs/ as the tests see them: code blocks, tables and commands."""

import re
import shlex
import sys
import tomllib
from dataclasses import dataclass

from tests.support.processes import PROJECT_ROOT

PAGES = {
    path.relative_to(PROJECT_ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").rglob("*.md"))]
}
"""The text of each page, by its path in the project."""
README = PAGES["README.md"]
PROJECT = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
TEST_COMMAND_MARK = "<!-- test command -->"

_BLOCK = re.compile(
    r"(?:^(?P<adds>Add to)?[^`\n]*`(?P<file>[\w./-]+)`:\n\n)?"
    r"^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_HEADING = re.compile(r"^#{2,} (.+)$", re.MULTILINE)
_ROW = re.compile(r"^\|(.+)\|$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its code, and the number of its first line.

    `file` is what the line above it ends in, if that is "`name`:"; it `adds` to the file if that
    line begins with "Add to".
    """

    language: str
    code: str
    line: int
    file: str | None = None
    adds: bool = False


def blocks(language: str | None, text: str) -> list[Block]:
    """The blocks of one language, or of all, in their order."""
    return [
        Block(
            language=match["language"],
            code=match["code"],
            line=text.count("\n", 0, match.start("code")) + 1,
            file=match["file"],
            adds=match["adds"] is not None,
        )
        for match in _BLOCK.finditer(text)
        if language in (None, match["language"])
    ]


def commands() -> list[str]:
    """Every command line of the shell blocks, of all pages."""
    found = (
        line
        for text in PAGES.values()
        for block in blocks("sh", text)
        for line in block.code.splitlines()
    )
    return list(dict.fromkeys(found))


def first_screen() -> str:
    """What stands in README.md before the first section."""
    return README[: README.index("\n## ")]


def section(*titles: str, text: str) -> str:
    """The text below nested headings: from the last title to the next heading."""
    start = 0
    for title in titles:
        start = re.compile(rf"^#+ {re.escape(title)}$", re.MULTILINE).search(text, start).end()
    following = _HEADING.search(text, start)
    return text[start : following.start() if following else None]


def headings(text: str) -> list[str]:
    return _HEADING.findall(text)


def head(text: str) -> list[str]:
    """The column titles of the table in `text`."""
    return _cells(text)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the table in `text`, without its head."""
    return _cells(text)[2:]


def _cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.split("|")] for row in _ROW.findall(text)]


def serving_command(mark: str) -> list[str]:
    """The part of the printed command with `mark` that serves, for the Python of the tests."""
    (command,) = [command for command in commands() if mark in command]
    words = shlex.split(command.rpartition("&&")[2])
    name = words[0].rpartition("/")[2]
    return [sys.executable, *([] if name == "python" else ["-m", name]), *words[1:]]
