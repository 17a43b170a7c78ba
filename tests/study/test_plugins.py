"""Plug-ins of a study by their names: found beside it, or refused with the files that a name means."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import akdtune
from akdtune.errors import SettingsError
from akdtune.registry import kept, lookup
from akdtune.study import spec

PLUGIN = """\
from akdtune.methods.kd import KD
from akdtune.registry import register

@register("{name}")
class Mine(KD):
    '''A method of mine.'''
"""
Refusal = Callable[..., str]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, and one beside it for the study; what is imported is forgotten again."""
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "studies").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


@pytest.fixture
def refusal(folders: Path) -> Refusal:
    """The message that a study with these plug-ins is refused with; without line breaks, files by their place."""

    def call(plugins: str) -> str:
        (folders / "studies" / "s.yaml").write_text(f"plugins: {plugins}\n")
        known = set(sys.modules)
        with kept(), pytest.raises(SettingsError) as caught:
            spec.load(folders / "studies" / "s.yaml", ["data=digits"])
        for name in set(sys.modules) - known:
            del sys.modules[name]
        (message,) = (p.message for p in caught.value.problems if p.key == "plugins")
        assert all(p.line == 1 for p in caught.value.problems if p.key == "plugins")
        return message.replace(str(folders), "").replace(str(Path(torch.__file__).parent), "TORCH")

    return call


def test_a_plug_in_named_like_a_module_of_python(folders: Path, refusal: Refusal) -> None:
    assert refusal("[test]") == "'test' is a module of Python itself"
    (folders / "studies" / "test.py").write_text(PLUGIN.format(name="mine"))
    expected = "'test' is a module of Python itself, so that /studies/test.py needs another name"
    assert refusal("[test]") == expected
    assert refusal("test") == expected
    assert refusal("[sys]") == "'sys' is a module of Python itself"
    assert refusal("[os.path]") == "'os.path' is a module of Python itself"


@pytest.mark.parametrize(("name", "module"), [("torch", torch), ("akdtune", akdtune)])
def test_a_plug_in_named_like_an_installed_package(folders: Path, refusal: Refusal, name: str, module: object) -> None:
    (folders / "here" / f"{name}.py").write_text(PLUGIN.format(name="mine"))
    message = refusal(f"[{name}]")
    assert message.startswith(f"'{name}' is /here/{name}.py and ")
    assert message.endswith("/__init__.py; give the plug-in another name")


def test_two_plug_ins_of_one_name(folders: Path, refusal: Refusal) -> None:
    for folder in ("here", "studies"):
        (folders / folder / "twice_there.py").write_text(PLUGIN.format(name=f"mine_{folder}"))
    expected = "'twice_there' is /here/twice_there.py and /studies/twice_there.py; give the plug-in another name"
    assert refusal("[twice_there]") == expected


def test_a_plug_in_of_another_study_in_this_process(folders: Path, refusal: Refusal) -> None:
    """Python would go on with the first one without a word."""
    (folders / "other").mkdir()
    (folders / "other" / "same_name.py").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folders / "other"), *sys.path])
        __import__("same_name")
    (folders / "studies" / "same_name.py").write_text("")
    try:
        expected = "'same_name' is /studies/same_name.py and /other/same_name.py; give the plug-in another name"
        assert refusal("[same_name]") == expected
    finally:
        del sys.modules["same_name"]


@pytest.mark.parametrize(
    ("plugins", "hint"),
    [
        ("[./mine.py]", ", write mine"), ("[mine.py]", ", write mine"), ("[plugins/mine]", ", write mine"),
        ("['']", ""), ("['a b']", ""), ("[a-b.py]", ""), ("[.a]", ""), ("[a..b]", ""),
    ],
)  # fmt: skip
def test_what_is_not_the_name_of_a_module(refusal: Refusal, plugins: str, hint: str) -> None:
    name = plugins.strip("[]'")
    assert refusal(plugins) == (
        f"'{name}' is not the name of a module{hint}: a plug-in is found by its name beside the settings file, in the "
        "working directory or among the installed packages"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\nimport nothing_like_it\n", "No module named 'nothing_like_it' (/here/fails.py:2)"),
        ("\n\nfrom torch import nothing_like_it\n", "cannot import name 'nothing_like_it' from 'torch'"),
        ("x = 1\nraise SystemExit('no')\n", "SystemExit: no (/here/fails.py:2)"),
        ("1 / 0\n", "ZeroDivisionError: division by zero (/here/fails.py:1)"),
        ("def f(:\n", "SyntaxError: invalid syntax (fails.py, line 1)"),
        (PLUGIN.format(name="kd"), "method 'kd' is registered twice: akdtune.methods.kd and fails (/here/fails.py:4)"),
    ],
)
def test_a_plug_in_that_fails_names_its_file_and_line(
    folders: Path, refusal: Refusal, content: str, message: str
) -> None:
    (folders / "here" / "fails.py").write_text(content)
    assert refusal("[fails]").startswith(f"cannot import 'fails': {message}")


def test_a_plug_in_is_loaded_once_however_often_it_is_named(folders: Path) -> None:
    (folders / "studies" / "named_often.py").write_text(PLUGIN.format(name="named_often"))
    (folders / "studies" / "s.yaml").write_text(
        "plugins: [named_often, named_often]\ndata: {name: digits, validation: 300}\nteacher: resnet8\n"
        "student: {network: resnet8}\nmethod: named_often\nsearch: {algorithm: grid}\n"
    )
    with kept():
        study = spec.load(folders / "studies" / "s.yaml", ["teacher={network: resnet8}"])
        assert lookup("methods", "named_often").__module__ == "named_often"
        assert spec.load(folders / "studies" / "s.yaml", ["teacher={network: resnet8}"]).plugins == study.plugins
    del sys.modules["named_often"]
