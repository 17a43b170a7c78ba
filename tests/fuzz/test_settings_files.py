"""Settings as nobody means them: a study or one of our errors, each within seconds, never a traceback.

`AKDTUNE_FUZZ=2000 pytest tests/fuzz/test_settings_files.py` tries so many of each kind, other ones in every run.
"""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from akdtune.errors import AkdtuneError
from akdtune.folders import packaged
from akdtune.study import spec
from akdtune.study.from_python import read
from akdtune.study.proposals import Outline
from akdtune.study.spec import Study

EXAMPLES = int(os.environ.get("AKDTUNE_FUZZ", "0"))
BOUND_S = 5.0
"""Processor time of one example."""

FEW_LISTED = 200
"""Trials up to which the proposals are drawn, too."""


def tried(share: float = 1.0) -> Callable[[Any], Any]:
    """As many examples as asked for; without being asked a few, the same in every run."""
    checks = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture)
    return settings(
        max_examples=int(EXAMPLES * share) or int(20 * share),
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=checks,
    )


@contextlib.contextmanager
def within_bounds() -> Iterator[None]:
    """One of our errors, and not for ever."""
    began = time.process_time()
    with contextlib.suppress(AkdtuneError):
        yield
    assert time.process_time() - began < BOUND_S


def look_into(study: Study) -> None:
    """What a plan asks of a study before any data is read."""
    study.resolved()
    outline = Outline(study)
    if outline.trials <= FEW_LISTED:
        _ = outline.proposals, outline.probes


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_bytes(content: bytes, overrides: Sequence[str] = ()) -> None:
    Path("s.yaml").write_bytes(content)
    with within_bounds():
        look_into(spec.load("s.yaml", overrides))


STUDIES: dict[str, Any] = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in packaged().items()}
WORDS = sorted({
    word for values in STUDIES.values() for word in yaml.safe_dump(values).replace(":", " ").replace("-", " ").split()
})  # fmt: skip
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 10**400, 1e308, 1e-320, float("inf"), float("nan"), True, False]),
)
ODD_TEXTS = [
    "", "~", "null", "yes", "on", "0123", "0o17", "0x10", "1_000", "1:30", "02:30:00", "1e-4", "1e400", ".inf", ".nan",
    "2024-11-29", "2024_11_29", "<<", "=", "!!python/object:os.system x", "*a", "&a x", "%YAML 1.1", "---", "...", "\t",
    "\ufeff", "\x00", "\x85", "ä" * 200, "a" * 300, "../x", "~nobody/x", "$HOME/x", "[", "{", "'", '"', "#", "|", ">-",
    "torch", "test", "akdtune", "a.b", "x.py", "²", "٣",
]  # fmt: skip
TEXTS = st.one_of(st.sampled_from(WORDS), st.sampled_from(ODD_TEXTS), st.text(max_size=12))
DOMAIN_KEYS = ["choice", "grid", "uniform", "log_uniform", "int_uniform", "log_int_uniform", "quantized_uniform"]
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(TEXTS, inner, max_size=4),
        st.builds(lambda key, items: {key: items}, st.sampled_from(DOMAIN_KEYS), st.lists(inner, max_size=4)),
        st.builds(lambda key, ends: {key: ends}, st.sampled_from(DOMAIN_KEYS), st.lists(NUMBERS, max_size=3)),
        st.builds(lambda name, more: {"name": name, **more}, TEXTS, st.dictionaries(TEXTS, inner, max_size=2)),
    ),
    max_leaves=12,
)  # fmt: skip


class Writer(yaml.SafeDumper):
    """Writes whatever was drawn, without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_yaml(values: Any) -> bytes:
    return yaml.dump(values, Dumper=Writer, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")


def containers(node: Any) -> Iterator[Any]:
    """Every mapping and list that holds something."""
    if isinstance(node, dict | list) and node:
        yield node
        for item in list(node.values() if isinstance(node, dict) else node):
            yield from containers(item)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A packaged study with keys dropped, misspelt or moved, and values of any other kind."""
    study: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(list(STUDIES.values()))))
    for _ in range(draw(st.integers(1, 3))):
        places = list(containers(study))
        if not places:
            break
        place = draw(st.sampled_from(places))
        key = draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
        change = draw(st.sampled_from(["drop", "misspell", "move", "replace", "replace", "repeat", "wrap"]))
        if change == "replace":
            place[key] = draw(VALUES)
        elif change == "repeat":
            place[key] = [place[key]] * draw(st.integers(2, 3))
        elif change == "wrap":
            place[key] = {draw(st.sampled_from(DOMAIN_KEYS)): [place[key], draw(PLAIN)]}
        else:
            value = place.pop(key)
            target = place if change == "misspell" else draw(st.sampled_from(places))
            inside = any(target is inner for inner in containers(value))
            if change != "drop" and isinstance(target, dict) and not inside:
                target[draw(TEXTS) if change == "misspell" else str(key)] = value
    return study


@tried()
@given(
    content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
)
def test_any_text(content: bytes) -> None:
    read_bytes(content)


YAML_BITS = st.sampled_from([
    "study: x\n", "data:", " {", "}", " [", "]", "\n", "\n  ", "\n    ", "- ", ": ", "? ", ",", " &a", " *a", " <<: *a",
    "!!str ", "!!int ", "!x ", "|\n", ">-\n", "'", '"', "#", "---\n", "...\n", "%YAML 1.2\n", "\t", "name: kd", "1e3",
    "0x1f", "\\u0000", '"\\ud800"', '"\\U00110000"', "choice: ", "views: ", "method: ", "~", "@", "`",
])  # fmt: skip


@tried()
@given(bits=st.lists(YAML_BITS, max_size=40), deep=st.sampled_from([0, 0, 0, 45, 400, 3000]))
def test_any_heap_of_yaml(bits: list[str], deep: int) -> None:
    read_bytes(("".join(bits) + "[" * deep).encode())


@tried(1.5)
@given(study=mutated())
def test_packaged_studies_mutated(study: dict[str, Any]) -> None:
    read_bytes(as_yaml(study))


PATHS = st.one_of(
    st.sampled_from([
        "study", "data.validation", "data.root", "data.name", "teacher.network", "teacher.checkpoint", "views",
        "student.network", "views.margin", "views.num_views", "method", "method.weight", "method[0].weight",
        "training", "training.epochs", "training.lr", "search", "search.trials", "search.time_budget", "search.seeds",
        "scheduler.name", "probe.trials", "probe.fixed", "confirm", "ablation.seeds", "ablation.factors", "plugins",
        "ablation.arms.x", "method.kd", "resources.cpu", "tracking.wandb", "teacher_cache.location", "report.train_on",
        "views.choice[1]", "method.choice[0].name",
    ]),
    st.lists(TEXTS, min_size=1, max_size=5).map(".".join),
    st.integers(1, 3000).map(lambda count: ".".join(["views"] * count)),
)  # fmt: skip
OVERRIDES = st.builds(lambda path, value: f"{path}={value}", PATHS, st.one_of(TEXTS, VALUES.map(lambda v: flow(v))))


def flow(value: Any) -> str:
    return yaml.dump(value, Dumper=Writer, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


@tried()
@given(
    name=st.sampled_from(sorted(STUDIES)),
    overrides=st.lists(OVERRIDES, max_size=3),
)
def test_overrides(name: str, overrides: list[str]) -> None:
    with within_bounds():
        look_into(spec.load(name, overrides))


@tried(0.5)
@given(name=st.sampled_from(sorted(STUDIES)), path=PATHS, value=VALUES)
def test_overrides_from_python(name: str, path: str, value: Any) -> None:
    with within_bounds():
        look_into(read(name, {path: value}))
