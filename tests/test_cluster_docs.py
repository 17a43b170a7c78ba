"""docs/cluster.md: every file in it is one that its reader accepts, as far as that can be told without a cluster."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from typer.main import get_command

from akdtune.cli.app import app
from tests.checkout import ROOT

TEXT = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


def block(language: str, holding: str) -> str:
    (found,) = (text for kind, text in BLOCKS if kind == language and holding in text)
    return str(found)


def test_ray_accepts_the_cloud_cluster() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load(block("yaml", "cluster_name"))

    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]


@pytest.mark.parametrize("script", [text for kind, text in BLOCKS if kind == "bash"])
def test_the_shell_accepts_the_scripts(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_slurm_script_asks_slurm_first_and_goes_on_after_a_warning() -> None:
    script = block("bash", "#SBATCH").splitlines()
    directives = [number for number, line in enumerate(script) if line.startswith("#SBATCH")]

    assert script[0] == "#!/bin/bash"
    assert directives == list(range(1, len(directives) + 1)), "Slurm reads none after the first command"
    options = [line.split()[1].partition("=")[0] for line in script if line.startswith("#SBATCH")]
    assert {"--signal", "--requeue", "--time", "--nodes", "--ntasks-per-node"} <= set(options)
    assert any("requeue" in line and "130" in line for line in script)


def test_a_warning_reaches_the_driver_and_its_exit_code_the_queue(tmp_path: Path) -> None:
    """The end of the Slurm script with stand-ins for the driver and for scontrol."""
    script = block("bash", "#SBATCH")
    end = script[script.index("akdtune run study.yaml") :]
    for name, body in {
        "akdtune": "trap 'exit 130' USR1; touch started; while :; do sleep 0.05; done",
        "scontrol": 'echo "$@" > requeued',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    warned = f"export PATH={tmp_path}:$PATH SLURM_JOB_ID=7 head=h port=1\n"
    warned += "(while [ ! -e started ]; do sleep 0.05; done; kill -USR1 $$) &\n"
    done = subprocess.run(["bash", "-uc", warned + end], cwd=tmp_path, timeout=60, check=False)

    assert done.returncode == 130
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_every_container_of_kuberay_sees_the_shared_folder() -> None:
    job = yaml.safe_load(block("yaml", "kind: RayJob"))

    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    groups: list[dict[str, Any]] = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        (container,) = pod["containers"]
        assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]
        assert pod["volumes"][0]["name"] == "shared"
        assert {"name": "AKDTUNE_CACHE", "value": "/shared/akdtune_cache"} in container["env"]
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_every_akdtune_command_has_the_options_it_uses() -> None:
    root = get_command(app)
    commands = re.findall(r"akdtune (run|rehearse|show|plan)([^\n\"`]*)", TEXT)
    assert len(commands) >= 5
    for name, rest in commands:
        known = {option for parameter in root.commands[name].params for option in parameter.opts}  # type: ignore[attr-defined]
        used = {word for word in shlex.split(rest.replace("&", "")) if word.startswith("--")}
        assert used <= known, (name, used - known)
