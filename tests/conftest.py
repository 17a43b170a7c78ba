"""What every test stands on: one thread, no tracking key, and a cache folder that is not the user's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from akdtune import progress
from tests.checkout import ROOT

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

# Before torch is imported anywhere: subprocesses and Ray workers inherit them too.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def pytest_addoption(parser: pytest.Parser) -> None:
    """What `tests/faults` asks for."""
    faults = parser.getgroup("faults")
    faults.addoption("--long", action="store_true", help="run every fault of tests/faults, not its short form")
    faults.addoption("--fault-seed", type=int, help="the seed that an earlier run of tests/faults printed")
    faults.addoption("--fault-studies", help="a folder that keeps the undisturbed studies for the next run")
    faults.addoption("--fault-table", help="a file for the table of faults, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Markers of tests that an option asks for."""
    config.addinivalue_line("markers", "long: left out unless asked for (pytest tests/faults --long)")


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of its own for the whole session, and no Weights & Biases key from the user's account."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AKDTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("NETRC", str(tmp_path_factory.mktemp("home") / "netrc"))
        patch.setattr(progress, "_LOOK_S", 1e6)  # what is printed does not depend on how busy the machine is
        yield


@pytest.fixture(scope="module", autouse=True)
def plugins_of_this_file_alone() -> Iterator[None]:
    """Takes back what plug-ins registered while a file's tests ran, and their modules, so that order matters nowhere.

    What test files register when they are collected stays, as every process collects them all.
    """
    from akdtune.registry import KINDS, _registered

    before = {kind: dict(_registered[kind]) for kind in KINDS}
    yield
    for kind, known in before.items():
        for name, component in list(_registered[kind].items()):
            module = str(getattr(component, "__module__", ""))
            if name not in known and not module.startswith("akdtune."):
                del _registered[kind][name]
                sys.modules.pop(module, None)  # imported again, it registers again


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Runs folders in two processes, unless told otherwise (`-n 0`); single files stay in this one."""
    option = config.option
    untold = getattr(option, "numprocesses", 0) is None and option.dist == "no" and not option.usepdb
    folders = any(Path(argument).is_dir() for argument in config.args)
    if untold and folders and not hasattr(config, "workerinput") and (os.cpu_count() or 1) > 1:
        option.numprocesses = 2
        option.dist = "loadfile"
    option.loadscopereorder = False  # the order below


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """A file's tests share a process, for its fixtures' sake; so do all that start Ray, for Ray's."""
    from xdist.scheduler import LoadFileScheduling

    class RayTogether(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "ray" if "ray" in Path(file).parts else file

    return RayTogether(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the long ones out unless asked for; puts what starts Ray first, as the longest piece; skips `gpu`."""
    if not config.getoption("long"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in left_out]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
