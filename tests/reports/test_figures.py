"""Figures as files: which kinds each analysis writes, the same bytes whenever drawn, text that stays text in a PDF."""

from __future__ import annotations

import argparse
import re
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from akdtune.analysis import ablation, diversity_accuracy, importance
from akdtune.reports import figures
from tests.study_fixture import StudyBuilder


def drawn() -> figures.Sheet:
    bars = [figures.Bar("a cell & 100 %", 0.4, 0.1, 0.7, 0.0, 0.8, 5, 0.04, False)]
    return figures.forest(bars, title="a title", xlabel="points", margin=0.3, level=0.95)


def test_a_pdf_is_the_same_whenever_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    first = drawn().image("pdf")
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    assert drawn().image("pdf") == first
    assert first.startswith(b"%PDF-") and b"CreationDate" not in first


def test_text_of_a_pdf_is_text_in_a_font_that_editors_take() -> None:
    pdf = drawn().image("pdf")
    assert b"/Type0" in pdf and b"/CIDFontType2" in pdf, "TrueType (42)"
    assert b"/Type3" not in pdf
    streams = [zlib.decompress(part) for part in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
               if part[:1] == b"x"]  # fmt: skip
    assert any(b"Tj" in stream or b"TJ" in stream for stream in streams), "letters are shown as text"


def test_a_kind_is_the_same_whatever_was_drawn_before_it() -> None:
    alone = {kind: drawn().image(kind) for kind in ("png", "svg", "pdf")}
    together = drawn()
    assert {kind: together.image(kind) for kind in ("pdf", "svg", "png")} == alone
    assert together.files == {kind: alone[kind] for kind in ("png", "svg")}


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ([], "png svg"),
        (["--format", "pdf"], "pdf"),
        (["--format", "both"], "png svg"),
        (["--format", "all"], "pdf png svg"),
    ],
)
def test_every_analysis_writes_the_kinds_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], kinds: str
) -> None:
    asked: list[Any] = []

    def image(_sheet: figures.Sheet, kind: str) -> bytes:
        asked.append(kind)
        return b""

    monkeypatch.setattr(figures.Sheet, "image", image)
    study = StudyBuilder(tmp_path / "s")
    for number in range(16):
        study.add(
            "angular/kd", 60.0 + number, 0.1 * number, role="search", params={"views.margin": 0.03 * number + 0.1}
        )
        study.add("angular/kd", 60.0 + number, 0.1 * number)
    study.cell("base", [70.0, 71.0])
    study.cell("other", [69.0, 70.5])
    study.design["ablation"]["reference"] = "base"
    run = str(study.write())
    for analysis in (ablation, diversity_accuracy, importance):
        out, asked[:] = tmp_path / analysis.__name__, []
        draws = [] if analysis is ablation else ["--draws", "100"]
        assert analysis.main([run, "--out", str(out), *draws, *given]) == 0
        written = {path.suffix[1:] for path in out.iterdir()} & {"png", "svg", "pdf"}
        assert sorted(written) == sorted(set(asked)) == kinds.split()


def test_another_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    figures.add_format(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--format", "jpg"])
    assert "invalid choice: 'jpg' (choose from " in capsys.readouterr().err
