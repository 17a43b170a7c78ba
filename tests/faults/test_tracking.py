"""Weights & Biases, the real library, with servers that refuse, hang or answer 500: no run is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults import judge
from tests.faults.servers import SERVERS
from tests.faults.trouble import Trouble

pytestmark = [pytest.mark.ray, pytest.mark.long]

HEADER_BYTES = 7
"""A transaction log without a record."""


@pytest.mark.parametrize("how", SERVERS)
def test_server(trouble: Trouble, how: str) -> None:
    overrides = ("tracking={wandb: {project: faults}, finish_timeout_s: 5}",)
    with SERVERS[how]() as address:
        environment = {"WANDB_API_KEY": "0123456789" * 4, "WANDB_BASE_URL": address}
        study = replace(trouble.study(**environment), overrides=overrides)
        trouble.inject(f"W&B {how}")
        output = trouble.goes_on(study)
        trials = judge.planned(study.root)
        logs = {log.name: log.stat().st_size for log in (study.root / "wandb").glob("*run-*/run-*.wandb")}
        lost = [
            trial for trial in trials if not any(trial in name and size > HEADER_BYTES for name, size in logs.items())
        ]
        trouble.found += [f"lost: the W&B run of {trial}" for trial in lost]
        said = [line for line in output.splitlines() if "Weights & Biases" in line or "wandb" in line.lower()]
        if not said:
            trouble.found.append("unsaid: nothing about runs that were not uploaded")
        trouble.settle(study)
