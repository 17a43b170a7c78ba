"""Components that installed packages bring by entry points, and the registry's own tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from akdtune import registry
from akdtune.cli import main
from akdtune.errors import AkdtuneError, AkdtuneWarning
from akdtune.folders import packaged
from akdtune.methods import Method
from akdtune.methods.kd import KD
from akdtune.networks.cnn import CNN
from akdtune.registry import add_on_versions, kept, load_plugins, lookup, names, network_name, typed
from akdtune.running.lock import package_versions
from akdtune.signals import Batch, Signals, Target
from akdtune.study import spec

METHOD = '''
from akdtune.methods.kd import KD
from akdtune.registry import register


@register("borrowed_kd")
class BorrowedKD(KD):
    """KD from another package."""
'''


def install(site: Path, package: str, code: str, module: str | None = None) -> None:
    """A distribution as an installer leaves it: a module, and a dist-info folder that names its entry point."""
    name = package.replace("-", "_")
    (site / f"{name}.py").write_text(code)
    info = site / f"{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[akdtune.plugins]\ncomponents = {module or name}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages; nothing of it stays in this process."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    with kept():
        yield folder
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(folder)):
            del sys.modules[module]


def test_an_installed_add_on_is_found_by_name_and_in_lists(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "borrowed-methods", METHOD)
    assert lookup("methods", "borrowed_kd").__module__ == "borrowed_methods"
    assert "borrowed_kd" in names("methods")
    assert main(["methods", "borrow*"]) == 0
    assert "KD from another package" in capsys.readouterr().out
    assert add_on_versions() == {"borrowed-methods": "1.5"}
    assert package_versions()["borrowed-methods"] == "1.5"


def test_an_add_on_is_not_imported_before_it_is_needed(site: Path) -> None:
    install(site, "lazy-methods", METHOD)
    assert lookup("methods", "kd") is KD
    assert "lazy_methods" not in sys.modules
    with pytest.raises(AkdtuneError, match="did you mean 'borrowed_kd'"):
        lookup("methods", "borrow_kd")
    assert "lazy_methods" in sys.modules


def test_an_unrelated_add_on_changes_no_settings(site: Path) -> None:
    digits = [path for name, path in packaged().items() if name.startswith("digits")]
    before = [json.dumps(spec.load(path).resolved()) for path in digits]
    with kept():
        install(site, "unrelated-methods", METHOD)
        assert [json.dumps(spec.load(path).resolved()) for path in digits] == before
        assert "borrowed_kd" in names("methods")
    assert "borrowed_kd" not in names("methods"), "what was registered inside is gone again"


BROKEN = [
    pytest.param("import akdtune\n\nnot_defined\n", "NameError: name 'not_defined' is not defined", 3, id="raises"),
    pytest.param("import no_such_module_here\n", "ModuleNotFoundError: No module named", 1, id="imports"),
    pytest.param("\nraise SystemExit(3)\n", "SystemExit: 3", 2, id="exits"),
    pytest.param("def f(:\n    pass\n", "SyntaxError: invalid syntax (broken_methods.py, line 1)", None, id="syntax"),
    pytest.param(
        METHOD.replace("borrowed_kd", "crd"), "method 'crd' is registered twice: akdtune.methods.crd and broken", 6,
        id="takes a name of ours",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("code", "reason", "line"), BROKEN)
def test_a_broken_add_on_is_left_out_with_one_warning(site: Path, code: str, reason: str, line: int | None) -> None:
    install(site, "broken-methods", code)
    with pytest.warns(AkdtuneWarning) as caught:
        known = names("methods")
    assert "angular" in names("views"), "the second time is silent: warnings are errors here"
    (said,) = [str(warning.message) for warning in caught]
    assert said.startswith(
        "add-on broken-methods 1.5 is left out: its entry point 'components = broken_methods' of akdtune.plugins "
        f"cannot be loaded: {reason}"
    )
    assert said.endswith("; update it, or remove it with `pip uninstall broken-methods`")
    assert line is None or f"({site / 'broken_methods.py'}:{line})" in said
    assert "kd" in known and lookup("methods", "crd").__module__ == "akdtune.methods.crd"
    with pytest.raises(AkdtuneError, match=r"(?s)^unknown method 'borrowed_kd'.*\nadd-on broken-methods 1\.5 is left"):
        lookup("methods", "borrowed_kd")
    assert add_on_versions() == {}


def test_what_a_failing_add_on_had_registered_is_gone_and_others_stay(site: Path) -> None:
    install(site, "half-methods", METHOD + "\n1 / 0\n")
    install(site, "whole-methods", METHOD.replace("borrowed_kd", "whole_kd"))
    with pytest.raises(AkdtuneError, match="ZeroDivisionError"):
        lookup("methods", "borrowed_kd")
    with pytest.warns(AkdtuneWarning, match="half-methods"):
        assert lookup("methods", "whole_kd").__module__ == "whole_methods"


def in_a_process(code: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, with these folders of installed packages."""
    path = os.pathsep.join(map(str, [*folders, Path(registry.__file__).parents[1]]))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


def test_a_failing_add_on_takes_nothing_of_ours_with_it(site: Path) -> None:
    """Also where it was the first to import our files, which register once in a process."""
    install(site, "half-methods", METHOD + "\n1 / 0\n")
    done = in_a_process(
        "import warnings; warnings.simplefilter('ignore'); from akdtune import registry; registry.names('data')\n"
        "print('borrowed_kd' in registry.names('methods'), 'crd' in registry.names('methods'))\n"
        "print(registry.lookup('methods', 'kd').__name__)",
        site,
    )
    assert done.stdout == "False True\nKD\n"


def test_an_entry_point_to_nothing_says_so(site: Path) -> None:
    install(site, "empty-methods", "", module="empty_methods:components")
    with pytest.warns(AkdtuneWarning, match="'components = empty_methods:components' .* AttributeError"):
        names("methods")


@pytest.mark.filterwarnings("always::akdtune.errors.AkdtuneWarning")
def test_the_command_line_goes_on_and_says_it_in_one_line(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "broken-methods", "1 / 0\n")
    assert main(["methods"]) == 0
    said = capsys.readouterr()
    assert "dkd" in said.out
    assert said.err.count("\n") == 1
    assert said.err.startswith("warning: add-on broken-methods 1.5 is left out: ")


def test_other_processes_find_it_too(site: Path) -> None:
    """A trial's worker types its settings by lookups of its own; help never looks for add-ons."""
    install(site, "borrowed-methods", METHOD + "\nprint('imported')\n")
    code = (
        "import sys; from akdtune.cli import main; main(['--help']); assert 'borrowed_methods' not in sys.modules;"
        "from akdtune import registry; assert 'torch' not in sys.modules;"
        "print(registry.typed('methods', {'name': 'borrowed_kd', 'weight': 0.25}).weight)"
    )
    done = in_a_process(code, site)
    assert done.stdout.splitlines()[-2:] == ["imported", "0.25"]
    assert done.stderr == ""


def test_an_add_on_trains_as_the_same_module_under_plugins(site: Path) -> None:
    def loss() -> float:
        """What the borrowed method says about one batch."""
        torch.manual_seed(0)
        student, teacher = Signals.of(torch.randn(8, 10)), Signals.of(torch.randn(8, 10))
        settings = typed("methods", {"name": "borrowed_kd", "temperature": 2.0})
        method = lookup("methods", "borrowed_kd").alone(**settings.model_dump())
        return float(method.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["kd"])

    install(site, "borrowed-methods", METHOD)
    by_add_on = loss()
    assert add_on_versions() == {"borrowed-methods": "1.5"}
    del sys.modules["borrowed_methods"]
    with kept():
        load_plugins(["borrowed_methods"])
        assert loss() == by_add_on


# ------------------------------------------------------------------------------------------------------- own tools


def test_typed_reads_names_and_mappings() -> None:
    assert typed("methods", "kd") == KD.Settings()
    assert typed("methods", {"name": "kd", "weight": 0.25}) == KD.Settings(weight=0.25)
    assert typed("networks", {"name": "cnn", "widths": [2, 4]}) == CNN.Settings(widths=[2, 4])
    assert network_name("cnn") == network_name({"name": "cnn", "widths": [2, 4]}) == "cnn"
    with pytest.raises(AkdtuneError, match="unknown method 'kdd'; did you mean 'kd'"):
        typed("methods", {"name": "kdd"})


def test_kept_puts_back_what_was_added_and_what_was_replaced() -> None:
    with kept():
        registry.register("passing")(type("Passing", (Method,), {}))
        assert lookup("methods", "passing")
        registry.register("kd")(type("KD", (Method,), {"__module__": KD.__module__}))
        assert lookup("methods", "kd") is not KD
    assert lookup("methods", "kd") is KD
    with pytest.raises(AkdtuneError, match="unknown method 'passing'"):
        lookup("methods", "passing")
    registered_twice = [registry.register("passing"), registry.register("kd")]
    with pytest.raises(AkdtuneError, match="method 'kd' is registered twice"), kept():
        [register(type("Passing", (Method,), {"__module__": "outside"})) for register in registered_twice]
    assert "passing" not in names("methods")


def test_no_component_from_outside_takes_a_name_of_ours() -> None:
    code = (
        "from akdtune.methods import Method; from akdtune.registry import register\n"
        "try:\n    register('kd')(type('Mine', (Method,), {'__module__': 'mine'}))\n"
        "except Exception as error: print(error)"
    )
    done = in_a_process(code)
    assert done.stdout == "method 'kd' is registered twice: akdtune.methods.kd and mine\n"
