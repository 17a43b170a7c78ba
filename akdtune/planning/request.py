"""What a planned trial is asked, from its study, the study's identity and its row of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from akdtune.planning.identity import Identity
from akdtune.registry import plugin_folders
from akdtune.study.spec import Study
from akdtune.training.request import TrialRequest, trial_seeds


def planned_request(study: Study, identity: Identity, row: Mapping[str, Any]) -> TrialRequest:
    """The request of one trial, as far as it is the same inside and outside a running study.

    Args:
        study: its settings.
        identity: gave the trial its id, and knows the teachers.
        row: of the plan.
    """
    cache = study.teacher_cache
    return TrialRequest(
        trial_id=row["trial_id"],
        cell_id=row["cell_id"],
        role=row["role"],
        arm=row["arm"],
        seed=row["seed"],
        settings=row["settings"],
        params=row["params"],
        cell=row.get("cell"),
        study=study.name,
        seeds=trial_seeds(row["seed"], row["settings"].get("seeds")),
        teacher_file=identity.teacher_of(row["role"]),
        teacher_cache=None if cache is None else cache.of_trial(row["settings"]["training"]),
        record=study.record.model_dump(mode="json"),
        plugins=study.plugins,
        plugin_folders=plugin_folders(study.plugins),
        cpu=study.resources.cpu,
    )
