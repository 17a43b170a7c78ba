"""A trained student out of a trial's checkpoint, ready to be asked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from akdtune.data.row_sets import RowDataSet
from akdtune.networks import Network
from akdtune.registry import load_plugins, lookup
from akdtune.settings.data import data_settings
from akdtune.teacher.checkpoints import load_checkpoint
from akdtune.training.task import task_of

CPU = torch.device("cpu")


def data_of(settings: Mapping[str, Any], plugins: Sequence[str] = (), folders: Sequence[str] = ()) -> RowDataSet:
    """The data set of a trial, on the CPU.

    Args:
        settings: the trial's, as the plan holds them.
        plugins: modules that its study names.
        folders: where to look for them besides the installed packages.

    Raises:
        AkdtuneError: naming the file that is missing, or the plug-in that cannot be imported.
    """
    load_plugins(plugins, folders)
    return task_of(settings).load(data_settings(settings["data"]), CPU)


def trained_student(
    checkpoint: Path, settings: Mapping[str, Any], plugins: Sequence[str] = (), folders: Sequence[str] = ()
) -> Network:
    """The student of a trial with the weights of its checkpoint: on the CPU, in eval mode, without gradients.

    It takes normalised images [B, C, H, W], as `DataSet.split` gives them, or the inputs of another task, and returns
    `Signals`. The data set is read for their size. Warns where predictions of the trial came out of a method and not
    out of the student.

    Raises:
        AkdtuneError: for a checkpoint that is damaged or another network's; as `data_of`.
    """
    inputs = data_of(settings, plugins, folders).inputs
    student = load_checkpoint(checkpoint, settings["student"]["network"], inputs, CPU, finite=False)
    if warning := through_a_method(settings):
        warnings.warn(warning, stacklevel=3)
    return student


def through_a_method(settings: Mapping[str, Any]) -> str:
    """A sentence where a trial predicts through one of its methods, so that its student alone predicts otherwise."""
    heads = [term["name"] for term in settings["method"] if lookup("methods", term["name"]).replaces_logits]
    if not heads:
        return ""
    return f"this student predicts through '{heads[0]}': its body is trained, its own classifier is not"
