"""Trials take the workers that wait: on our own Ray, Tune asks for no process with variables of its own."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from ray.tune.execution import class_cache

from akdtune.running import ray_start
from akdtune.running.tune import in_waiting_workers


class Trainable:
    """Stands for what Tune makes an actor of."""


def variables() -> dict[str, str]:
    """Those that an actor of Tune's would ask for."""
    actor = class_cache._ActorClassCache().get(Trainable)
    return dict((actor._default_options.get("runtime_env") or {}).get("env_vars") or {})


def test_tune_asks_for_no_variables_while_a_study_runs_and_for_its_own_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
    before = variables()
    assert before["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
    with in_waiting_workers():
        assert variables() == {}
    assert variables() == before


def test_what_tune_would_ask_for_is_what_our_own_workers_inherit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in class_cache.ENV_VARS_TO_PROPAGATE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray_start.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    inherited = {**os.environ, **ray_start._preloading(1, 1)}
    assert {name: inherited.get(name) for name in variables()} == variables()
