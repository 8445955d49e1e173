"""The tables of docs/coming_from.md, as claims that a test can try.

A row says what each adapter does, a column is an adapter. The page names the versions that the
other columns were written for; with another one installed, only our own column is tried.
"""

import gc
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pytest

from tests.support import pages
from tests.support.processes import PROJECT_ROOT

TEXT = (PROJECT_ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")
OURS = ("`WSGIToASGI`", "`ASGIToWSGI`")

Probe = Callable[[Any, str], str]
"""Takes an adapter's factory and the expected cell, gives the cell as it should be.

What is expected decides only how long to wait: long for what must come, briefly for what must not.
"""


@dataclass(frozen=True)
class Claim:
    """One cell: in the row `what`, the column `adapter` says `cell`."""

    what: str
    adapter: str
    cell: str

    def __str__(self) -> str:
        return f"{self.what} - {self.adapter}".replace("`", "")


def claims(title: str) -> list[Claim]:
    """All cells of the table below the heading `title`."""
    text = pages.section(title, text=TEXT)
    _, *adapters = pages.head(text)
    return [
        Claim(what, adapter, cell)
        for what, *cells in pages.rows(text)
        for adapter, cell in zip(adapters, cells, strict=True)
    ]


def as_described(distribution: str) -> bool:
    """Whether the installed version of a peer is the one that docs/coming_from.md describes."""
    named = dict(re.findall(r"\b(a2wsgi|asgiref|uvicorn|Starlette|Hypercorn) (\d[\d.]*\d)", TEXT))
    written = {name.lower(): number for name, number in named.items()}
    return version(distribution) == written[distribution.lower()]


def check(
    claim: Claim, probes: Mapping[str, Probe], adapters: Mapping[str, tuple[str, Any]]
) -> None:
    """Try one claim."""
    distribution, factory = adapters[claim.adapter]
    probe = probes[claim.what]
    if claim.adapter in OURS:
        assert probe(factory, claim.cell) == claim.cell
        return
    if not as_described(distribution):
        pytest.skip(f"docs/coming_from.md describes another version than {version(distribution)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a peer leaves open is its own affair
        assert probe(factory, claim.cell) == claim.cell
        gc.collect()
