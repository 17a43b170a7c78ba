"""A page as HTML: one file that asks nobody for anything, and in which every text of the study is escaped."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from akdtune.reports.page.content import Page
from akdtune.reports.page.drawing.looks import LEVELS

_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
"""Signs that no HTML file may hold; a name of a file can."""


def html_of(page: Page, index: str | None = None) -> str:
    """The page of a study as one file.

    Args:
        page: what it says.
        index: address of the page that lists several studies; None where there is none.
    """
    return _render("page.html.j2", page=page, index=index)


def index_of(title: str, made: str, entries: Sequence[tuple[str, Page]]) -> str:
    """A page that lists studies.

    Args:
        title: its heading.
        made: when, and with which version.
        entries: address and page of each study.
    """
    return _render("index.html.j2", title=title, made=made, entries=entries)


def _render(template: str, **values: Any) -> str:
    style, script = _own("page.css"), _own("page.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    made = _environment().get_template(template).render(
        policy=policy, style=Markup(style), script=Markup(script), levels=LEVELS, **values
    )  # fmt: skip
    return _UNSEEN.sub("\ufffd", made)


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("akdtune.reports.page", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters["kind"] = lambda part: type(part).__name__
    return made


@functools.cache
def _own(name: str) -> str:
    return files("akdtune.reports.page").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
