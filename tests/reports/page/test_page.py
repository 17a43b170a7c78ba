"""The page of a study: what stands on it, whatever the study's names and numbers are."""

from __future__ import annotations

import functools
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from akdtune import cli
from akdtune.reports import answers
from akdtune.reports.ablation.measured import phases_of
from akdtune.reports.ablation.tables import compute, said_of
from akdtune.reports.page import material
from akdtune.reports.page.html import html_of
from akdtune.reports.page.markdown import markdown_of, plain
from akdtune.reports.page.study_page import SECTIONS, page_of
from tests.reports.page.studies import HOSTILE, ablated, searched, write_curves
from tests.study_fixture import StudyBuilder


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importance and its resamples take most of the time, so that only tests that look at it have it."""
    monkeypatch.setattr(material.answers, "diversity_in", functools.partial(answers.diversity_in, draws=100))
    if "with_importance" not in request.fixturenames:
        monkeypatch.setattr(material.Material, "judged", ())


@pytest.fixture
def with_importance() -> None:
    """Asked for by tests that look at the importance of settings."""


class Reader(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def titles(study: StudyBuilder, *, finished: bool = True) -> set[str]:
    return {section.title for section in page_of(study.write(finished=finished)).sections}


class TestSections:
    def test_a_search_with_probes(self, with_importance: None, tmp_path: Path) -> None:
        page = page_of(searched(tmp_path / "small", ("angular/kd",)).write())
        assert [section.title for section in page.sections] == [
            "Question and design", "Verdict", "Arms and cells", "Learning curves", "Decisions of early stopping",
            "Optimisation history", "Parallel coordinates", "Slices and contours", "Importance of settings",
            "Diversity and accuracy", "Geometry of the views", "Cost", "Versions and command",
        ]  # fmt: skip
        assert {left.title: left.why for left in page.left_out} == {
            "Differences from the reference": "the study has no confirmation and no ablation, or has not come to them "
            "yet",
            "Transfer of the teacher's function": "the study has no control independent (ablation.controls)",
            "Attention and fidelity": "the teachers' answers are not recorded: `record: {teacher: true}`, the default, "
            "keeps them from now on",
            "Detection of teachers": "nobody has asked which teacher it was (akdtune analyze detection)",
            "Pareto front": "the search weighs accuracy alone (search.objectives)",
            "Failures": "none: no trial failed, diverged or waits, and no file is damaged",
        }
        assert page.facts["trials"] == "24"
        assert page.facts["pruned"] == "1"

    def test_every_section_stands_or_says_why_not(self, tmp_path: Path) -> None:
        for study in (searched(tmp_path / "a"), ablated(tmp_path / "b"), StudyBuilder(tmp_path / "c")):
            study.lock = study.lock or {"settings": {"study": "small"}}
            page = page_of(study.write())
            held = {section.title for section in page.sections} | {left.title for left in page.left_out}
            assert held == set(SECTIONS)
            assert all(left.why for left in page.left_out)
            assert all(section.parts for section in page.sections)

    def test_the_verdict_is_that_of_the_other_reports(self, tmp_path: Path) -> None:
        run = ablated(tmp_path / "small").write()
        result = compute(phases_of(run)[0], run)
        text, shown = Reader(html_of(page_of(run))).text, markdown_of(page_of(run))
        for finding in result.findings:
            assert said_of(result, finding) in text
            assert plain(said_of(result, finding)) in shown

    def test_numbers_of_a_forest_plot(self, tmp_path: Path) -> None:
        text = html_of(page_of(ablated(tmp_path / "small").write()))
        forest = text[text.index('id="forest"') : text.index('id="curves"')]
        rows = re.findall(r'<text [^>]*class="name">([^<]+)</text>', forest)
        assert rows == ["inter=false", "plain", "inter=false", "plain"], "wide and narrow"
        assert "−1.33 [" in text
        assert "what views add" in text, "what a control isolates"

    def test_pruned_curves_are_dimmed(self, tmp_path: Path) -> None:
        study = searched(tmp_path / "small")
        text = html_of(page_of(study.write()))
        said = re.findall(r'class="(c\d ln one(?: dim)?)"><title>t\d+, (done|pruned):', text)
        assert {(status, "dim" in look) for look, status in said} == {("done", False), ("pruned", True)}
        assert sum(status == "pruned" for _, status in said) == 3

    def test_an_arm_looks_the_same_in_every_figure(self, tmp_path: Path) -> None:
        page = page_of(searched(tmp_path / "small").write())
        looks: dict[str, set[object]] = {}
        for section in page.sections:
            for part in section.parts:
                for name, look in getattr(part, "legend", {}).items() | getattr(part, "looks", {}).items():
                    looks.setdefault(name, set()).add(look)
        own = {name: held for name, held in looks.items() if "/" in name}
        assert len(own) == 3
        assert all(len(held) == 1 for held in own.values())
        assert len({next(iter(held)) for held in own.values()}) == 3

    def test_rungs_are_counted(self, tmp_path: Path) -> None:
        shown = markdown_of(page_of(searched(tmp_path / "small").write()))
        assert "| angular/kd | 1 | 12 | 1 | 51.00 | 50.00 |" in shown

    def test_angles_are_degrees(self, tmp_path: Path) -> None:
        text = html_of(page_of(searched(tmp_path / "small").write()))
        assert "view to teacher, features" in text
        assert "t00000, angular/kd: 60.00 after epoch 2" in text, "cosine .5 between two views"
        assert "t00000, angular/kd: 90.00 after epoch 2" in text, "cosine 0 to the teacher"
        assert "t00000, angular/kd: 25.00 after epoch 2" in text, "gate"

    def test_a_study_without_that_angle_says_so(self, tmp_path: Path) -> None:
        study = StudyBuilder(tmp_path / "small")
        study.add("angular/kd", 60.0, 0.2)
        assert "the angle of views to the teacher itself was not recorded" in html_of(page_of(study.write()))

    def test_failures_say_why(self, tmp_path: Path) -> None:
        study = searched(tmp_path / "small")
        trial = study.add("angular/kd", 50.0, 0.1, role="search", status="failed")
        study.events[-1]["error"] = "ValueError: /home/ada/data is <gone>"
        text = Reader(html_of(page_of(study.write()))).text
        assert "1 failed" in text
        assert f"{trial} angular/kd" in re.sub(r"(t\d{5})(angular)", r"\1 \2", text)
        assert "ValueError: ~/data is <gone>" in text
        assert "/home/ada" not in text

    def test_the_command_names_no_home(self, tmp_path: Path) -> None:
        shown = markdown_of(page_of(searched(tmp_path / "small").write()))
        assert "```\nakdtune run '~/x.yaml' 'a.b={c: 1}'\n```" in shown or "akdtune run ~/x.yaml 'a.b={c: 1}'" in shown
        assert "ada" not in shown


class TestWhateverItHolds:
    def test_an_empty_study(self, tmp_path: Path) -> None:
        study = StudyBuilder(tmp_path / "small")
        study.lock = {"settings": {"study": "small"}}
        page = page_of(study.write())
        assert page.about == "No trial has been planned yet."
        assert "No trial has been planned yet." in html_of(page)

    def test_a_running_one(self, tmp_path: Path) -> None:
        study = searched(tmp_path / "small")
        study.add("angular/kd", 40.0, None, role="search", status="running")
        study.add("angular/kd", None, None, role="search", status="planned")
        page = page_of(study.write(finished=False))
        assert page.about == "Not finished: 48 of 50 planned trials have ended; numbers will change."

    @pytest.mark.parametrize("lost", ["study.lock.yaml", "design.json", "ledger.jsonl"])
    def test_a_damaged_file_costs_its_part_alone(self, tmp_path: Path, lost: str) -> None:
        study = ablated(tmp_path / "small")
        study.lock = {"settings": {"study": "small"}}
        run = study.write()
        (run / lost).write_text("{'")
        page = page_of(run)
        assert "Arms and cells" in {section.title for section in page.sections}
        if lost != "ledger.jsonl":
            assert any(lost in said for said in page.warnings)
            assert lost in html_of(page)

    def test_settings_of_another_shape(self, tmp_path: Path) -> None:
        study = ablated(tmp_path / "small")
        study.lock = {"settings": {"study": "small", "ablation": 3}}
        (said,) = page_of(study.write()).warnings
        assert "damaged, settings.ablation must be a mapping or nothing, is a whole number" in said

    def test_numbers_that_are_not_finite(self, tmp_path: Path) -> None:
        study = searched(tmp_path / "small")
        for number, value in enumerate((math.nan, math.inf, -math.inf)):
            write_curves(study, f"t{number:05d}", [10.0, value], loss=value, inter_cosine=value)
        write_curves(study, "t00004", [math.nan, math.inf])
        text = html_of(page_of(study.write()))
        for drawing in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
            numbers = re.sub(r"<(title|text)\b.*?</\1>|aria-label=\"[^\"]*\"", "", drawing)
            assert not re.search(r"\b(nan|inf|Infinity|NaN)\b", numbers)

    def test_all_values_alike(self, tmp_path: Path) -> None:
        study = StudyBuilder(tmp_path / "small")
        for _ in range(12):
            study.add("a/kd", 50.0, 0.0, role="search", params={"views.margin": 0.1, "views.on": True})
        assert "Learning curves" in titles(study)

    def test_extreme_values(self, tmp_path: Path) -> None:
        study = StudyBuilder(tmp_path / "small")
        for number, value in enumerate((1e-300, 1e300, 1e308, -1e308, 5e-324)):
            settings = {"views.margin": value, "views.n": number, "views.w": abs(value)}
            study.add("a/kd", 1.0 + number, None, role="search", params=settings)
        assert "nan" not in re.findall(r' d="([^"]*)"', html_of(page_of(study.write())))

    def test_names_are_text_and_nothing_else(self, tmp_path: Path) -> None:
        study = searched(tmp_path / "</script><script>alert(2)", HOSTILE[:3])
        for number, name in enumerate(HOSTILE):
            study.add(name, 50.0 + number, 0.1 * number, params={f"views.{name}": name, "views.margin": 0.1 * number})
            study.add(name, 50.0, None, role="search", status="failed")
            study.events[-1]["error"] = name
        study.lock = {
            **(study.lock or {}), "command": f"akdtune run {HOSTILE[0]}", "packages": {HOSTILE[1]: HOSTILE[0]},
            "seeds": {HOSTILE[4]: [1]},
        }  # fmt: skip
        for place, name in enumerate(HOSTILE):
            study.cell(name, [70.0 + place, 71.0], explanation=name, merged=[name], replica_of=None)
        study.design["ablation"] |= {"design": "leave_one_out", "reference": HOSTILE[0], "notes": list(HOSTILE)}
        page = page_of(study.write())
        reader = Reader(html_of(page))
        assert len(reader.of("script")) == 1
        assert len(reader.of("style")) == 1
        assert {tag for tag, _ in reader.tags} <= ALLOWED
        assert not [a for _, attributes in reader.tags for a in attributes if a.startswith("on") or a == "style"]
        assert [a["href"] for tag, a in reader.tags if tag == "a" and not str(a["href"]).startswith("#")] == []
        for name in HOSTILE:
            assert " ".join(name.split()) in reader.text
        shown = re.sub(r"^```.*?^```$", "", markdown_of(page), flags=re.DOTALL | re.MULTILINE)  # code is shown as it is
        assert "<script" not in shown
        assert "](javascript" not in shown
        assert "49" not in re.findall(r"\{\{.*?\}\}|49", html_of(page)) or "{{ 7*7 }}" in reader.text

    def test_signs_that_no_file_may_hold(self, tmp_path: Path) -> None:
        study = StudyBuilder(tmp_path / "small")
        study.add("a\x00b\x1b[31m/kd", 50.0, 0.1)
        text = html_of(page_of(study.write()))
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", text)
        assert "a\ufffdb\ufffd[31m/kd" in text

    def test_no_environment_variable_is_printed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "5ecret-5ecret")
        assert "5ecret" not in html_of(page_of(searched(tmp_path / "small").write()))


ALLOWED = set(
    """html head meta title link style body a div nav ol li header h1 p dl dt dd main section h2 h3 ul table caption
    thead tr th tbody td figure figcaption svg g path rect text span details summary pre code footer script""".split()
)


class TestSafety:
    def test_the_policy_allows_what_is_in_the_file_alone(self, tmp_path: Path) -> None:
        import base64
        import hashlib

        text = html_of(page_of(searched(tmp_path / "small").write()))
        (policy,) = [meta["content"] for meta in Reader(text).of("meta") if meta.get("http-equiv")]
        found = (re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL) for tag in ("style", "script"))
        (style,), (script,) = found
        digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script)]
        assert policy == (
            f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        )
        assert "unsafe" not in str(policy)
        assert not re.findall(r"https?://(?!www\.w3\.org)", text)

    def test_what_it_is_for_those_who_do_not_see_it(self, tmp_path: Path) -> None:
        reader = Reader(html_of(page_of(searched(tmp_path / "small").write())))
        drawings = [a for a in reader.of("svg") if "figure" in str(a.get("class"))]
        assert drawings
        assert all(a.get("role") == "img" and a.get("aria-label") for a in drawings)
        assert len(reader.of("caption")) == len(reader.of("table"))
        assert all(heading.get("scope") in ("col", "row") for heading in reader.of("th"))
        assert reader.of("html") == [{"lang": "en"}]


class TestWriting:
    def test_beside_the_other_reports(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = ablated(tmp_path / "small").write()
        assert cli.main(["report", str(run)]) == 0
        file = run / "reports" / "report.html"
        assert capsys.readouterr().out == f"written: {file}\n"
        assert file.read_text().startswith("<!doctype html>")
        assert cli.main(["report", str(run), "--format", "md", "--out", str(tmp_path / "page.md")]) == 0
        assert (tmp_path / "page.md").read_text().startswith("# small\n")

    def test_several_in_one_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for place in ("runs/index", "other/index", "runs/a b<"):
            ablated(tmp_path / place).write()
        assert cli.main(["report", "runs/index", "other/index", "runs/a b<", "runs/index", "--out", "pages"]) == 0
        assert sorted(path.name for path in Path("pages").iterdir()) == [
            "a_b_.html", "index-2.html", "index-3.html", "index.html"
        ]  # fmt: skip
        links = [a["href"] for a in Reader(Path("pages/index.html").read_text()).of("a")]
        assert links == ["index-2.html", "index-3.html", "a_b_.html"]
        assert all((Path("pages") / str(link)).exists() for link in links)
        assert {"href": "index.html"} in Reader(Path("pages/a_b_.html").read_text()).of("a")

    def test_where_it_cannot_go(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        one, two = (str(ablated(tmp_path / name).write()) for name in ("one", "two"))
        (tmp_path / "file").write_text("")
        assert cli.main(["report", one, "--out", str(tmp_path / "file" / "x.html")]) == 2
        assert "cannot write" in capsys.readouterr().err
        assert cli.main(["report", one, two, "--out", str(tmp_path / "file")]) == 2
        assert "several studies go into a folder, and this is a file" in capsys.readouterr().err
        assert cli.main(["report", str(tmp_path / "three")]) == 2
        assert "no such study directory" in capsys.readouterr().err

    def test_it_opens_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened: list[str] = []
        monkeypatch.setattr("webbrowser.open", opened.append)
        run = ablated(tmp_path / "small").write()
        assert cli.main(["report", str(run), "--open"]) == 0
        assert opened == [(run / "reports" / "report.html").as_uri()]


def test_a_thousand_trials_fit(tmp_path: Path) -> None:
    """Below 5 MB: thin lines have 64 points at most."""
    study = StudyBuilder(tmp_path / "small")
    for number in range(60):
        trial = study.add("angular/kd", 50.0 + number % 9, 0.1, role="search", params={"views.margin": 0.001 * number})
        write_curves(study, trial, [10.0 + 0.1 * epoch for epoch in range(240)])
    run = study.write()
    size = len(html_of(page_of(run)).encode())
    assert size * 1000 / 60 < 5e6
