"""Every akdtune command in the README and in docs/ is one that the command line takes; cheap ones are run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import akdtune
from akdtune import cli
from akdtune.cli.app import app
from akdtune.folders import packaged
from akdtune.study import spec
from tests.checkout import ROOT
from tests.study_fixture import StudyBuilder

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
READ_ONLY = ("methods", "views", "selections", "networks", "data", "spaces", "show", "schema")
WITH_SETTINGS = ("run", "plan", "rehearse")
PLACEHOLDERS = {"RUN", "FILE", "NAME", "COMMAND", "TRIAL", "ADDR", "ID", "KEY", "RUN...", "[TRIAL...]", "..."}


def commands_of(page: Path) -> list[str]:
    """The akdtune commands in the shell blocks of a page, one line each."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:bash|console|sh)\n(.*?)```", text, re.DOTALL)
    blocks += re.findall(r"(?:^    \S.*\n)+", text, re.MULTILINE) if page.name == "cluster.md" else []
    found = []
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||;(?=\s)| \| ", line):
                words = part.strip().lstrip("$ ")
                words = re.sub(r"^(?:[A-Z_]+=\S+ +)+", "", words)
                if words.startswith("akdtune "):
                    found.append(re.sub(r"\s+[&>].*$", "", words.removesuffix('"' * (words.count('"') % 2))))
    return found


COMMANDS = sorted({(page.name, command) for page in PAGES for command in commands_of(page)})


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The command that words name, and its parameters; refused as on the command line."""
    command: Any = get_command(app)
    context = command.make_context("akdtune", list(words[:1]), resilient_parsing=True)
    rest, names = list(words), []
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, rest)
        names.append(name)
    context = command.make_context(name, rest, parent=context)
    return " ".join(names), context.params


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the study that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").symlink_to(ROOT / "search_spaces")
    for name in ("digits_angular", "cifar_check"):
        build = StudyBuilder(tmp_path / "runs" / name)
        for seed in (1, 2):
            build.add("angular/kd", 60.0 + seed, 0.1, role="search", params={"views.margin": 0.25}, seed=seed)
        build.write(finished=False)
    return tmp_path


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=str)
def test_a_command_of_the_docs(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR", str(ROOT))
    words = [re.sub(r"\$CIFAR\b", str(ROOT), word) for word in shlex.split(command, comments=True)[1:]]
    name, params = parsed(words)
    if PLACEHOLDERS & set(words):
        return
    if name in WITH_SETTINGS and Path(params["file"]).stem in packaged():
        overrides = params.get("overrides") or []
        assert spec.load(params["file"], overrides).name
    elif name.split()[0] in READ_ONLY:
        assert cli.main(words) == 0


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 30
    assert {command.split()[1] for _, command in COMMANDS} >= {"run", "show", "analyze", "methods", "teacher"}


# ------------------------------------------------------------------------------------------------------------ the site


def _configuration() -> dict[str, Any]:
    text = (ROOT / ".config" / "mkdocs.yml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(re.sub(r"!!python\S+", "", text))
    return loaded


def test_every_page_is_in_the_navigation() -> None:
    def pages(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [page for item in (node.values() if isinstance(node, dict) else node) for page in pages(item)]

    assert sorted(pages(_configuration()["nav"])) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("material") is None, reason="mkdocs-material is not installed: pip install -e '.[docs]'")
def test_the_site_is_built_and_its_pages_fetch_nothing(tmp_path: Path) -> None:
    site = tmp_path / "site"
    build = ["-m", "mkdocs", "build", "--quiet", "--strict", "-f", str(ROOT / ".config/mkdocs.yml"), "-d", str(site)]
    subprocess.run([sys.executable, *build], check=True, env={"NO_MKDOCS_2_WARNING": "1", "PATH": ""})
    for page in site.rglob("*.html"):
        fetched = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?:[^"]+)"', page.read_text())
        assert fetched == [], page
        assert 'class="mermaid"' not in page.read_text()  # whose code is fetched


# -------------------------------------------------------------------------------------------------------- how to cite


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(cited["version"]) == akdtune.__version__
    assert str(cited["cff-version"]) == "1.2.0"
    assert {"authors", "cff-version", "message", "title"} <= cited.keys()  # what the format asks for
    assert (cited["type"], cited["license"]) == ("software", "MIT")
    assert all(author.keys() <= {"name", "website", "email", "orcid"} for author in cited["authors"])


def test_without_posix_one_sentence_says_so() -> None:
    code = (
        "import sys; sys.modules['resource'] = None; from akdtune.cli import main; "
        "sys.exit(main(['plan', 'digits_angular']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if not re.search(r"(\.\.\.|, \d+ s)$", line)]  # a busy machine
    assert said == [
        "akdtune: akdtune trains on Linux and macOS, not on Windows itself: use it inside WSL 2 (docs/platforms.md)"
    ]
