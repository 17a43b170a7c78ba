"""What a federated study cannot have is refused when its file is read, naming both."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from akdtune.errors import SettingsError
from akdtune.planning.prepared import Prepared
from akdtune.study import spec
from akdtune.study.ids import cell_hash
from akdtune.study.written import export_yaml

STUDY = """\
study: small
task: {name: federated, clients: 4, networks: [{name: mlp, widths: [8]}, {name: mlp, widths: [12, 12]}], proxy: 60}
data: {name: digits, validation: 100}
teacher: {network: none}
student: {network: {name: mlp, widths: [12, 12]}}
views: clients
method: fedfd
training: {epochs: 2}
ablation: {design: arms, arms: {kd: {method: kd}}, seeds: [1, 2, 3]}
"""


def loaded(tmp_path: Path, *overrides: str, text: str = STUDY) -> spec.Study:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return spec.load(str(path), overrides)


REFUSED = [
    (["views=tekap"], "views: the views 'tekap' cannot work with the task 'federated': clients teach there"),
    (["views=none"], "views: 'fedfd' needs teachers, and in the task 'federated' the clients teach"),
    (["teacher={network: cnn, epochs: 1}"], "the clients of the task 'federated' teach: it must be none, got 'cnn'"),
    (["method=crd"], "'crd' cannot work with the views 'clients': their features differ in width by architecture"),
    (["method=at"], "'at' cannot work with the task 'federated': it needs stages, which the task lacks"),
    (["method=label_smoothing"], "'label_smoothing' cannot work with the task 'federated': the server learns from"),
    (["task.proxy=0"], "task.proxy: is 0, and 'fedfd' distils the clients on proxy images"),
    (["training.cuda_graphs=true"], "training.cuda_graphs: cannot be True in the task 'federated'"),
    (["training.compile=true"], "training.compile: cannot be True in the task 'federated'"),
    (["training.precision=bf16"], "training.precision: cannot be 'bf16' in the task 'federated'"),
    (["training.optimizer=dot"], "training.optimizer: dot cannot work with the task 'federated'"),
    (["training.ce_weight=0.5"], "proxy images have no labels: it must be null or 1, got 0.5"),
    (["record.views=true"], "record.views: the task 'federated' keeps predictions alone"),
    (["student.checkpoint=x.pt"], "student.checkpoint: server and clients of the task 'federated' begin untrained"),
    (["task.aggregate=layer"], "task.aggregate"),
    (["task.aggregate={name: layers, gain: kg}"], "gain"),
    (["task.networks=[mpl]"], "unknown network 'mpl'; did you mean 'mlp'"),
    (
        ["task.aggregate=none", "method=student_only", "ablation.arms={a: {training.lr: 0.1}}"],
        "task.judged: is server, whose network would learn nothing: aggregate is none, and 'student_only' reads no",
    ),
    (
        ["student.network=cnn", "method=student_only", "ablation.arms={a: {training.lr: 0.1}}"],
        "task.judged: is server, whose network would learn nothing: aggregate is by_architecture",
    ),
    (
        ["task=image", "teacher={network: cnn, others: [{network: cnn, seed: 1}]}", "method=kd"],
        "views: the views 'clients' cannot work with the task 'image': it has no clients",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[overrides[0] for overrides, _ in REFUSED])
def test_refused_when_the_file_is_read(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, *overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{task.clients: 1}", "task.clients: must be at least 2, got 1"),
        ("{task.client: 3}", "task.client: unknown setting 'client'; did you mean 'clients'"),
        ("{task.name: image}", "task.name: all trials of a study train for one task"),
        ("{task: image}", "task: all trials of a study train for one task"),
        ("{task.proxy: 0}", "cell 'a': task.proxy: is 0, and 'fedfd' distils the clients"),
    ],
)
def test_an_arm_is_refused_alike(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, f"ablation.arms={{a: {change}}}")
    assert message in str(caught.value)


def test_settings_of_the_task_are_factors_of_a_design(tmp_path: Path) -> None:
    study = loaded(tmp_path, "ablation.arms={wide: {task.aggregate: average}, far: {task.local_epochs: 3}}")
    assert study.cell_plan is not None
    cells = {cell.name: cell for cell in study.cell_plan.cells}
    assert [cell.settings["task"]["aggregate"]["name"] for cell in cells.values()] == [
        "by_architecture", "average", "by_architecture",
    ]  # fmt: skip
    assert cells["far"].settings["task"]["local_epochs"] == 3
    assert len({cell_hash(cell.settings, "d", "none") for cell in cells.values()}) == 3
    factors = "ablation={design: full_factorial, factors: {task.dirichlet: [0.3, 3.0]}, seeds: [1, 2, 3]}"
    text = STUDY.replace("ablation: {design: arms, arms: {kd: {method: kd}}, seeds: [1, 2, 3]}\n", "")
    plan = loaded(tmp_path, factors, text=text).cell_plan
    assert plan is not None and [cell.settings["task"]["dirichlet"] for cell in plan.cells] == [0.3, 3.0]
    exported = yaml.safe_load(export_yaml(study.resolved(), cells["far"].settings))
    assert exported["task"] == cells["far"].settings["task"]


def test_a_task_without_settings_says_so(tmp_path: Path) -> None:
    text = STUDY.replace("task:", "# task:").replace("views: clients", "views: none").replace("fedfd", "student_only")
    with pytest.raises(SettingsError, match=r"task.clients: unknown setting 'clients'"):
        loaded(tmp_path, "ablation.arms={a: {task.clients: 3}}", text=text)


def test_data_are_checked_before_anything_runs(tmp_path: Path) -> None:
    Prepared.load(loaded(tmp_path))
    with pytest.raises(SettingsError, match=r"task.proxy: 890 of 900 training images leave 10 for 4 clients with at"):
        Prepared.load(loaded(tmp_path, "task.proxy=890", "task.minimum=3"))
