"""The page in a browser: nothing is asked for, nothing is complained of, columns sort, and it fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from akdtune.reports.page import material, writing
from tests.browser import CHROMIUM, Browser, browser
from tests.reports.page.studies import HOSTILE, ablated, searched

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
NARROW, USUAL = 390, 1280


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of a search, of an ablation and of a study of hostile names, with their index."""
    folder = tmp_path_factory.mktemp("pages")
    hostile = searched(folder / "runs" / "hostile", HOSTILE[:3])
    for name in HOSTILE:
        hostile.cell(name * 4, [70.0, 71.0, 70.5], explanation=name)
    hostile.design["ablation"]["reference"] = HOSTILE[0] * 4
    runs = [searched(folder / "runs" / "small").write(), ablated(folder / "runs" / "ablated").write(), hostile.write()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material.Material, "judged", ())
        writing.write_all(runs, folder / "pages")
    return folder / "pages"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


ROWS = "[...document.querySelectorAll('#arms table')][0].tBodies[0].rows"
FIRST = f"[...{ROWS}].map((row) => row.cells[0].textContent.trim())"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [NARROW, USUAL])
def test_nothing_is_asked_for_and_nothing_overflows(pages: Path, tab: Browser, width: int, dark: bool) -> None:
    for file in sorted(pages.glob("*.html")):
        tab.open(file, width, dark=dark)
        assert tab.requests == [file.as_uri()]
        assert tab.complaints == []
        assert tab.value("document.documentElement.scrollWidth") <= width, file.name
        background = tab.value("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(17, 22, 28)" if dark else "rgb(255, 255, 255)")


def test_a_column_sorts_by_mouse_and_by_keyboard(pages: Path, tab: Browser) -> None:
    tab.open(pages / "small.html", USUAL)
    headings = "[...document.querySelector('#arms table').tHead.rows[0].cells].map((cell) => cell.textContent)"
    place = [text.startswith("best") for text in tab.value(headings)].index(True)
    numbers = f"[...{ROWS}].map((row) => Number(row.cells[{place}].textContent))"
    click = f"document.querySelectorAll('#arms table')[0].tHead.rows[0].cells[{place}].querySelector('button').click()"
    tab.value(click)
    down = tab.value(numbers)
    assert down == sorted(down, reverse=True)
    assert len(set(down)) == 3
    tab.value(click)
    assert tab.value(numbers) == sorted(down)
    tab.value("document.querySelector('#arms th button').focus()")
    tab.key("Enter", 13)
    names = tab.value(FIRST)
    assert names == sorted(names)
    tab.key("Enter", 13)
    assert tab.value(FIRST) == sorted(names, reverse=True)
    assert tab.value("document.querySelector('#arms th').getAttribute('aria-sort')") == "descending"
    assert tab.complaints == []


def test_a_point_says_what_it_is(pages: Path, tab: Browser) -> None:
    tab.open(pages / "small.html", USUAL)
    mark = "document.querySelector('#history .wide .mk path')"
    tab.value(f"{mark}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    tab.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")  # it has scrolled
    box = tab.value(f"{mark}.getBoundingClientRect().toJSON()")
    place = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.pointer(*place)
    assert not tab.value("document.getElementById('said').hidden")
    assert "angular/kd, pruned after epoch 2: " in tab.value("document.getElementById('said').textContent")
    tab.key("Escape", 27)
    assert tab.value("document.getElementById('said').hidden")
    assert tab.complaints == []


def test_without_scripts_tables_and_figures_are_there(pages: Path, tab: Browser) -> None:
    tab.open(pages / "ablated.html", USUAL, scripts=False)
    tab.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert tab.value("document.querySelectorAll('th button').length") == 0
    drawn = "[...document.querySelectorAll('.wide svg, .panels svg, table')]"
    shown = f"{drawn}.filter((part) => part.closest('details') === null)"
    heights = tab.value(f"{shown}.map((part) => part.getBoundingClientRect().height)")
    assert len(heights) > 8
    assert min(heights) > 30
