"""A study on a cluster of three nodes: a node dies, a plug-in travels, a node does not see the study."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import pytest

from tests.faults import judge, studies
from tests.faults.nodes import three_nodes
from tests.faults.studies import EPOCHS, Study
from tests.faults.trouble import MOST_COMMANDS, Trouble

pytestmark = [pytest.mark.ray, pytest.mark.long]

UNSEEN = ["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]


def at(study: Study, address: str, environment: dict[str, str]) -> Study:
    """The same study with `--address`."""
    return replace(
        study,
        overrides=(*study.overrides, "--address", address),
        environment={**study.environment, **environment},
    )


def hosts(study: Study) -> int:
    """How many processes have trained."""
    files = (study.root / "trials").glob("*/attempts/*.json")
    return len({judge.json.loads(path.read_text())["pid"] for path in files})


def test_three_nodes(trouble: Trouble) -> None:
    study = trouble.study()
    with three_nodes(study.environment) as nodes:
        study = at(study, nodes.address, nodes.environment)
        trouble.inject("cluster of three nodes")
        trouble.goes_on(study)
        assert hosts(study) >= 3
        trouble.settle(study)


@pytest.mark.parametrize("number", [1, 2])
def test_a_node_dies(trouble: Trouble, number: int) -> None:
    study = trouble.study()
    with three_nodes(study.environment) as nodes:
        study = at(study, nodes.address, nodes.environment)
        command = trouble.begin(study)
        assert command.epochs(trouble.random.randint(1, EPOCHS))
        nodes.kill(trouble.random.choice(sorted(nodes.cluster.worker_nodes, key=lambda node: node.node_id)))
        trouble.inject("cluster node dies")
        trouble.ended(command, study)
        trouble.goes_on(study, MOST_COMMANDS)
        trouble.settle(study)


def test_the_head_dies(trouble: Trouble) -> None:
    """Then a study says so within 30 s, and goes on without the cluster."""
    study = trouble.study()
    with three_nodes(study.environment) as nodes:
        there = at(study, nodes.address, nodes.environment)
        command = trouble.begin(there)
        assert command.epochs(trouble.random.randint(1, EPOCHS))
        head = nodes.cluster.head_node
        for infos in head.all_processes.values():
            for info in infos:
                studies.kill(info.process.pid)
        trouble.inject("cluster head dies")
        code, output = trouble.ended(command, there, 30.0)
        if code in (0, studies.NEVER) or code < 0:
            trouble.found.append(f"exits: {code} when the head died: {output[-400:]}")
        trouble.says_how_to_go_on(output)
    trouble.goes_on(study, MOST_COMMANDS)
    trouble.settle(study)


def test_a_plug_in_is_brought_to_the_workers(trouble: Trouble) -> None:
    study = trouble.study("folder")
    with three_nodes({"AKDTUNE_CACHE": study.environment["AKDTUNE_CACHE"]}) as nodes:
        study = at(study, nodes.address, nodes.environment)
        trouble.inject("plug-in on a cluster")
        trouble.goes_on(study)
        trouble.settle(study)


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(UNSEEN, capture_output=True).returncode != 0,
    reason="no mount namespaces here",
)
def test_a_node_does_not_see_the_study(trouble: Trouble) -> None:
    """No result is taken for one that is not there; what can be trained elsewhere is."""
    study = trouble.study()
    study.root.mkdir()
    with three_nodes(study.environment) as nodes:
        there = at(study, nodes.address, nodes.environment)
        for node in list(nodes.cluster.worker_nodes):
            nodes.kill(node)
        nodes.add_blind(study.root)
        trouble.inject("node that does not see the study")
        code, output = trouble.ended(trouble.begin(there), there)
        if code == 0 and (found := judge.judge(study.root, study.undisturbed).found):
            trouble.found.append(f"exits: 0 although {found[0]}")
        if code != 0 and str(study.root) not in output:
            trouble.found.append(f"unsaid: {code}, {output[-400:]}")
    trouble.goes_on(study, MOST_COMMANDS)
    trouble.settle(study)


@pytest.mark.parametrize("what", ["nowhere", "stale"])
def test_address_of_no_cluster(trouble: Trouble, what: str) -> None:
    study = trouble.study()
    there = at(study, "127.0.0.1:1", {}) if what == "nowhere" else study
    trouble.inject(f"address {what}")
    if what == "stale":  # of a cluster that is gone: nobody asked for it
        trouble.goes_on(replace(study, environment={**study.environment, "RAY_ADDRESS": "127.0.0.1:1"}))
    else:
        code, output = trouble.ended(trouble.begin(there), there, 30.0)
        if code != 2 or "127.0.0.1:1" not in output or len(output.splitlines()) > 20:
            trouble.found.append(f"unsaid: {code}, {len(output.splitlines())} lines, {output[-400:]}")
        trouble.goes_on(study)
    trouble.settle(study)
