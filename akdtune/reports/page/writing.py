"""Where pages go: one study's beside its other reports, those of several in one folder with a page that lists them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from akdtune.errors import AkdtuneError
from akdtune.reports.page.content import Page
from akdtune.reports.page.html import html_of, index_of
from akdtune.reports.page.markdown import markdown_of
from akdtune.reports.page.study_page import page_of
from akdtune.reports.text import counted, save

Form = Literal["html", "md"]
FOLDER = Path("akdtune_report")
"""Of the pages of several studies."""


def write(run: Path, out: Path | None = None, form: Form = "html") -> Path:
    """Writes the page of one study; returns the file.

    Args:
        run: the study directory, of a running study as well.
        out: the file, or a folder for it; default: `reports/report.html` in the study directory.
        form: html or md.

    Raises:
        StudyError: for a directory that is no study, or a file that cannot be written.
    """
    page = page_of(run)
    file = run / "reports" / f"report.{form}" if out is None else out
    if out is not None and out.is_dir():
        file = out / f"{_file_name(page.study)}.{form}"
    return save(file, _bytes(html_of(page) if form == "html" else markdown_of(page)))


def write_all(runs: Sequence[Path], out: Path | None = None, form: Form = "html") -> Path:
    """Writes the pages of several studies into one folder, and one that lists them; returns that one.

    Args:
        runs: their directories; one that is given twice counts once.
        out: the folder; default: `akdtune_report` here.
        form: html or md.

    Raises:
        StudyError: as `write`.
        AkdtuneError: where `out` is a file.
    """
    folder = out or FOLDER
    if folder.is_file() or folder.suffix in (".html", ".md"):
        raise AkdtuneError(f"--out {folder}: several studies go into a folder, and this is a file (e.g. --out pages)")
    pages = [page_of(run) for run in dict.fromkeys(run.resolve() for run in runs)]
    names = _names([_file_name(page.study) for page in pages])
    entries = []
    for name, page in zip(names, pages, strict=True):
        text = html_of(page, f"index.{form}") if form == "html" else markdown_of(page)
        save(folder / f"{name}.{form}", _bytes(text))
        entries.append((f"{quote(name)}.{form}", page))
    title, made = counted(len(pages), "study").replace("studys", "studies"), pages[0].made
    text = index_of(title, made, entries) if form == "html" else _listed(title, entries)
    return save(folder / f"index.{form}", _bytes(text))


def _listed(title: str, entries: Sequence[tuple[str, Page]]) -> str:
    return f"# {title}\n\n" + "\n".join(f"- [{page.study}]({link}): {page.about}" for link, page in entries) + "\n"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _file_name(study: str) -> str:
    """The name of a study as a file's, which every system takes."""
    kept = "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in study)[:100]
    return kept.lstrip(".") or "study"


def _names(wanted: Sequence[str]) -> list[str]:
    """The same names, those that come again, or that the index has, with a number."""
    taken: list[str] = []
    for name in wanted:
        free, number = name, 2
        while free in taken or free == "index":
            free, number = f"{name}-{number}", number + 1
        taken.append(free)
    return taken
