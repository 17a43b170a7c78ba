"""The saved view of a study: curves by arm, searched settings to accuracy, diversity against accuracy.

Made through wandb-workspaces where that is installed; on the server alone, as there are no views offline.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

from akdtune.metric import ACCURACY, Metric
from akdtune.tracking.child import Answer
from akdtune.tracking.mode import reason

DIVERSITY = ("views/diversity_sq_logit", "views/diversity_sq_feature", "views/inter_cosine")
"""Measures that are held against accuracy, those that a study has."""


def is_possible() -> bool:
    """Whether wandb-workspaces is installed."""
    return importlib.util.find_spec("wandb_workspaces") is not None


def view_of(
    entity: str, project: str, study: str, settings: Sequence[str], measures: Sequence[str], metric: Metric = ACCURACY
) -> Any:
    """The view, as an object of wandb-workspaces; asks no server.

    Args:
        entity: whose the project is.
        project: where the runs are.
        study: name of the study; only its trials are shown.
        settings: flat names of what is searched or compared.
        measures: metrics of diversity that there are.
        metric: what the study is judged by.
    """
    validation, words = f"student/{metric.validation}", metric.words
    with warnings.catch_warnings():  # of its own use of pydantic
        warnings.simplefilter("ignore")
        import wandb_workspaces.reports.v2 as reports_v2  # late: needs a further package
        import wandb_workspaces.workspaces as workspaces  # late: needs a further package
    panels: Any = reports_v2  # its names are not exported to type checkers

    last = panels.SummaryMetric(f"{validation}.last")
    curves = panels.LinePlot(
        title=f"validation {words} by arm", x="epoch", y=[validation], groupby=panels.Config("arm"),
        groupby_aggfunc="mean", groupby_rangefunc="stddev", max_runs_to_show=100,
    )  # fmt: skip
    axes = [panels.ParallelCoordinatesPlotColumn(metric=panels.Config(name)) for name in ("arm", *settings)]
    axes.append(panels.ParallelCoordinatesPlotColumn(metric=last, display_name=f"validation {words}"))
    searched = panels.ParallelCoordinatesPlot(title=f"searched settings to {words}", columns=axes)
    scatters = [
        panels.ScatterPlot(title=f"{name.partition('/')[2]} and {words}", x=panels.SummaryMetric(f"{name}"), y=last)
        for name in measures
    ]
    sections = [
        workspaces.Section(f"{words[0].upper()}{words[1:]}", panels=[curves], is_open=True),
        workspaces.Section("Settings", panels=[searched], is_open=True),
    ]
    if scatters:
        sections.append(workspaces.Section(f"Diversity and {words}", panels=scatters, is_open=True))
    of_study = workspaces.RunsetSettings(filters=f"Config('study') = '{study}' and Metric('JobType') != 'study'")
    name = f"akdtune: {study}"
    return workspaces.Workspace(entity, project, name, sections=sections, runset_settings=of_study)


def saved(
    entity: str, project: str, study: str, settings: Sequence[str], measures: Sequence[str], metric: Metric = ACCURACY
) -> Answer:
    """Saves the view on the server.

    Returns:
        `url`, or `error`.
    """
    try:
        view = view_of(entity, project, study, settings, measures, metric)
        view.save()
        return {"error": None, "url": view.url}
    except Exception as error:  # the package and the server raise many kinds
        return {"error": f"{type(error).__name__}: {reason(error)}"}
