"""How the diversity of an ensemble of views goes together with the accuracy of the student distilled from it.

    python analysis/diversity_accuracy.py runs/digits_angular
    akdtune analyze diversity_accuracy runs/digits_angular

Three estimands, never mixed: (a) pooled, (b) within arm, (c) adjusted for student-side settings. View-side settings are
how diversity is produced, so adjusting for them would take away what is to be measured; no estimand does.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from akdtune import reports, results, stats, study_tables
from akdtune.errors import AkdtuneError
from akdtune.figures import COLOURS, MARKERS, sheet
from akdtune.resampling import Floats
from akdtune.stats import Association, Estimate

if TYPE_CHECKING:
    from rich.console import Console

HEADLINE = {
    "diversity_sq_prob": "D_sq, probabilities",
    "diversity_sq_logit": "D_sq, logits",
    "diversity_sq_feature": "D_sq, features",
    "diversity_ce": "D_ce",
}
SYMBOLS = {
    "diversity_sq_prob": "$D_{sq}$ of probabilities",
    "diversity_sq_logit": "$D_{sq}$ of logits",
    "diversity_sq_feature": "$D_{sq}$ of features",
    "diversity_ce": "$D_{ce}$",
}
FURTHER = {
    "diversity_pair_prob": "D_pair, probabilities",
    "diversity_pair_logit": "D_pair, logits",
    "diversity_pair_feature": "D_pair, features",
    "inter_cosine": "cosine of views",
    "offset_cosine": "cosine of offsets",
}
ESTIMANDS = {
    "pooled": "(a) pooled: all trials of the panel as they are; descriptive, mixes differences between and within arms",
    "within_arm": "(b) within arm: both variables centred on the mean of their arm (view x base method), then pooled",
    "adjusted": "(c) adjusted: least squares on student-side settings only (base method, its weights and temperature, "
    "cross-entropy weight, learning rate, student network), never on view-side settings",
}
MIN_DOF = 10
SMALL = 12  # below this many cells no sentence about the relation is made
PROBES = "probe trials: quasi-random view settings, student settings fixed, never pruned"
REPORTS = "report trials: trained on everything; confirmed arms were chosen by their accuracy"
SURVIVORS = (
    "search survivors: selected on accuracy, biased (pruning cuts off low accuracies, which flattens the relation; "
    "measured: a true correlation of .5 shows as .34 among survivors)"
)


@dataclass(frozen=True)
class Panel:
    """Trials that may be looked at together.

    Attributes:
        name: key in the JSON report.
        title: one line above its plots and table.
        biased: whether its trials were selected on accuracy.
        arms, cells, accuracy: one entry per finished trial; accuracy in percent, NaN where it is missing.
        measures: values per diversity measure, NaN where there are none.
        student_settings: values per searched student-side setting.
        excluded: trials of these roles that do not count, by status.
    """

    name: str
    title: str
    biased: bool
    arms: list[str]
    cells: list[str]
    accuracy: Floats
    accuracy_on: str
    measures: dict[str, Floats]
    student_settings: dict[str, list[Any]]
    excluded: dict[str, int]

    def viewless(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which trials have no views and hence no diversity: they are drawn, not fitted."""
        return np.array([_bare(arm) for arm in self.arms], bool)

    def fitted(self, measure: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which trials enter the fit of a measure."""
        return np.isfinite(self.measures[measure]) & np.isfinite(self.accuracy) & ~self.viewless()


@dataclass(frozen=True)
class Relation:
    """One measure against accuracy in one panel."""

    measure: str
    estimates: dict[str, Association]
    refused: dict[str, str]
    adjusted_for: list[str]

    def simpson(self) -> bool:
        """Whether the pooled and the within-arm relation have opposite signs."""
        pooled, within = (self.estimates.get(name) for name in ("pooled", "within_arm"))
        if pooled is None or within is None or pooled.pearson is None or within.pearson is None:
            return False
        return pooled.pearson.value * within.pearson.value < 0


def _bare(arm: str) -> bool:
    """Whether an arm's teacher stands alone, without views."""
    return arm.split("/")[0] == "none"


# ------------------------------------------------------------------------------------------------- reading


def panels_of(run_dir: Path) -> tuple[list[Panel], dict[str, int]]:
    """The panels of a study that hold any trial, and how many trials it has by status."""
    trials = study_tables.read_trials(run_dir)
    status = trials["status"].to_pylist() if trials.num_rows else []
    kinds = (
        ("probe", PROBES, ("probe",), False),
        ("search", SURVIVORS, ("search",), True),
        ("report", REPORTS, results.REPORT_ROLES, False),
    )
    panels = [_panel(trials, name, title, roles, biased) for name, title, roles, biased in kinds]
    return [panel for panel in panels if panel.arms or panel.excluded], dict(Counter(status))


def _panel(trials: Any, name: str, title: str, roles: Sequence[str], biased: bool) -> Panel:
    of_role = np.array([role in roles for role in trials["role"].to_pylist()], bool)
    status = np.array(trials["status"].to_pylist(), object)
    rows = trials.take(np.flatnonzero(of_role & (status == "done")))
    accuracy = _values(rows, "val_accuracy")
    test = _values(rows, "test_accuracy")
    on_test = name == "report" and bool(np.isfinite(test).any())
    student = [
        column for column in rows.column_names
        if column.startswith(("param.method.", "param.training.", "param.student."))
    ]  # fmt: skip
    return Panel(
        name=name,
        title=title,
        biased=biased,
        arms=[str(arm) for arm in rows["arm"].to_pylist()],
        cells=[str(cell) for cell in rows["cell_id"].to_pylist()],
        accuracy=np.where(np.isfinite(test), test, accuracy) if on_test else accuracy,
        accuracy_on="test" if on_test else "validation",
        measures={measure: _values(rows, measure) for measure in {**HEADLINE, **FURTHER}},
        student_settings={column.removeprefix("param."): rows[column].to_pylist() for column in student},
        excluded=dict(Counter(status[of_role & (status != "done")].tolist())),
    )


def _values(rows: Any, column: str) -> Floats:
    return np.array([np.nan if value is None else value for value in rows[column].to_pylist()], np.float64)


# ------------------------------------------------------------------------------------------------- estimating


def relate(panel: Panel, measures: Sequence[str], *, draws: int = stats.DRAWS, seed: int = 0) -> list[Relation]:
    """The three estimands for each measure; (b) and (c) are refused below `MIN_DOF` residual degrees of freedom."""
    alike: dict[bytes, list[str]] = {}
    for measure in measures:
        alike.setdefault(panel.fitted(measure).tobytes(), []).append(measure)
    found = {relation.measure: relation for group in alike.values() for relation in _relate(panel, group, draws, seed)}
    return [found[measure] for measure in measures]


def _relate(panel: Panel, measures: Sequence[str], draws: int, seed: int) -> list[Relation]:
    """For measures that the same trials have."""
    use = np.flatnonzero(panel.fitted(measures[0]))
    arms, cells = [panel.arms[i] for i in use], [panel.cells[i] for i in use]
    x_NM, y_N = np.column_stack([panel.measures[measure][use] for measure in measures]), panel.accuracy[use]
    adjustment, adjusted_for = _student_side(panel, use, arms)
    designs = {"pooled": np.ones((len(use), 1)), "within_arm": stats.dummies(arms), "adjusted": adjustment}
    estimates: dict[str, list[Association]] = {}
    refused: dict[str, str] = {}
    for name, design in designs.items():
        rank = int(np.linalg.matrix_rank(design)) if len(use) else 0
        dof = len(set(cells)) - rank - 1
        if name != "pooled" and dof < MIN_DOF:
            taken = "arm means" if name == "within_arm" else "student-side columns"
            refused[name] = (
                f"refused: residual degrees of freedom {max(dof, 0)} ({len(set(cells))} cells less {taken} {rank} "
                f"and slope 1), {MIN_DOF} needed"
            )
            continue
        twin = next((done for done in estimates if _same_span(designs[done], design)), None)
        estimates[name] = (
            estimates[twin] if twin else stats.associations(x_NM, y_N, cells, design, draws=draws, seed=seed)
        )
    return [
        Relation(measure, {name: found[index] for name, found in estimates.items()}, refused, adjusted_for)
        for index, measure in enumerate(measures)
    ]


def _student_side(panel: Panel, use: Any, arms: Sequence[str]) -> tuple[Floats, list[str]]:
    """Nuisance columns of estimand (c), which span the intercept, and the settings they stand for."""
    methods = [arm.split("/", 1)[-1] for arm in arms]
    columns, names = [stats.dummies(methods)], ["base method"] if len(set(methods)) > 1 else []
    for name, values in panel.student_settings.items():
        column = stats.covariate([values[i] for i in use])
        if column is not None:
            columns.append(column)
            names.append(name)
    return np.column_stack(columns), names


def _same_span(first: Floats, second: Floats) -> bool:
    ranks = [np.linalg.matrix_rank(m) if m.size else 0 for m in (first, second, np.column_stack([first, second]))]
    return bool(ranks[0] == ranks[1] == ranks[2])


def verdict(relation: Relation) -> str:
    """One sentence on what the numbers allow to say: association or nothing, never effect."""
    name = "within_arm" if "within_arm" in relation.estimates else "pooled"
    found = relation.estimates[name]
    where = {"pooled": "pooled", "within_arm": "within arms"}[name]
    r = found.pearson
    if found.n < 3 or found.clusters < SMALL:
        return f"n is too small to conclude anything ({found.clusters} cells; at least {SMALL} are needed)"
    if r is None:
        return "no variation left to relate"
    if r.low is None:
        return f"no interval for r = {_signed(r.value)} {where}: nothing can be concluded"
    if not r.excludes_zero:
        needed = stats.pairs_needed(r.value)
        more = f"; to tell r = {_signed(r.value)} from zero would need about {needed} cells" if needed else ""
        least = stats.detectable_correlation(found.residual_dof + 2)
        shown = f"; this many cells show |r| of {least:.2f} or more (power .8)" if least else ""
        return f"n is too small to tell the sign {where}: the interval covers zero{shown}{more}"
    sign = "positive" if r.value > 0 else "negative"
    return f"{sign} association {where}, r = {_interval(r)}"


# ------------------------------------------------------------------------------------------------- reporting


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}"


def _interval(estimate: Estimate | None, short: bool = False) -> str:
    """A value with its interval; three significant digits when it is a slope (`short`)."""
    if estimate is None:
        return "n/a"
    show = (lambda v: f"{v:+.3g}") if short else _signed
    if estimate.low is None or estimate.high is None:
        return f"{show(estimate.value)} [n/a]"
    return f"{show(estimate.value)} [{show(estimate.low)}, {show(estimate.high)}]"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{counts[status]} {status}" for status in results.STATUSES if counts.get(status)) or "none"


def print_panel(console: Console, panel: Panel, relations: Sequence[Relation]) -> None:
    """Prints one panel: a table of all measures and estimands, then what may be concluded."""
    from rich.table import Table

    console.print(f"\n{panel.title}", style="bold", highlight=False)
    viewless = panel.viewless()
    cells = {cell for cell, bare in zip(panel.cells, viewless, strict=True) if not bare}
    console.print(
        f"{len(panel.arms)} finished, {len(panel.arms) - viewless.sum()} of them with views, in {len(cells)} cells; "
        f"excluded: {_counts(panel.excluded)}; drawn but not fitted (no views): {viewless.sum()}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("measure", "estimand", "n", "cells"):
        table.add_column(heading, justify="right" if heading in ("n", "cells") else "left", no_wrap=True)
    for heading in ("Pearson r [95 %]", "Spearman rho [95 %]", "slope [95 %], points per unit"):
        table.add_column(heading, no_wrap=True)
    for relation in relations:
        label = {**HEADLINE, **FURTHER}[relation.measure]
        for letters, found in _grouped(relation):
            numbers = (_interval(found.pearson), _interval(found.spearman), _interval(found.slope, short=True))
            table.add_row(label, letters, str(found.n), str(found.clusters), *numbers)
            label = ""
    console.print(table)
    for sentence in dict.fromkeys(_remarks(panel, relations)):
        console.print(sentence, highlight=False, soft_wrap=True)


def _grouped(relation: Relation) -> list[tuple[str, Association]]:
    """Estimands that are the same number here share a line: with one arm, all three are."""
    groups: dict[int, tuple[list[str], Association]] = {}
    for name, found in relation.estimates.items():
        groups.setdefault(id(found), ([], found))[0].append(ESTIMANDS[name].split(":")[0])
    return [(" = ".join(letter.split()[0] for letter in names) if len(names) > 1 else names[0], found)
            for names, found in groups.values()]  # fmt: skip


def _remarks(panel: Panel, relations: Sequence[Relation]) -> list[str]:
    remarks = []
    for relation in relations:
        if relation.measure in HEADLINE:
            remarks.append(f"- {HEADLINE[relation.measure]}: {verdict(relation)}")
        if relation.simpson():
            a, b = (relation.estimates[name].pearson for name in ("pooled", "within_arm"))
            assert a is not None
            assert b is not None
            remarks.append(
                f"- Simpson: {relation.measure} has r = {_signed(a.value)} pooled but {_signed(b.value)} within arms; "
                "the pooled number shows differences between arms"
            )
    for name in ("within_arm", "adjusted"):
        sentences = dict.fromkeys(relation.refused[name] for relation in relations if name in relation.refused)
        remarks += [f"- {ESTIMANDS[name].split(':')[0]} {sentence}" for sentence in sentences]
    adjusted = next((relation.adjusted_for for relation in relations if relation.adjusted_for), [])
    remarks.append(f"- (c) adjusts for: {', '.join(adjusted) or 'nothing, no student-side setting varies here'}")
    return remarks


def report(
    panels: Sequence[Panel], relations: dict[str, list[Relation]], counts: dict[str, int], **how: Any
) -> dict[str, Any]:
    """Everything that was computed, as plain JSON."""
    return {
        "estimands": ESTIMANDS,
        "claim": "association, never effect: diversity was not assigned at random independently of everything else",
        "trials_by_status": counts,
        "bootstrap": {"over": "cells", "level": stats.LEVEL, **_limits(), **how},
        "minimum_residual_dof": MIN_DOF,
        "panels": {
            panel.name: {
                "title": panel.title,
                "selected_on_accuracy": panel.biased,
                "accuracy_on": panel.accuracy_on,
                "finished": len(panel.arms),
                "arms": dict(sorted(Counter(panel.arms).items())),
                "excluded": panel.excluded,
                "without_views": int(panel.viewless().sum()),
                "measures": {relation.measure: _relation_json(panel, relation) for relation in relations[panel.name]},
            }
            for panel in panels
        },
    }


def _limits() -> dict[str, int]:
    return {"up_to_cells": stats.LARGE, "spearman_up_to_cells": stats.LARGE_FOR_RANKS}


def _relation_json(panel: Panel, relation: Relation) -> dict[str, Any]:
    without = int((~np.isfinite(panel.measures[relation.measure]) & ~panel.viewless()).sum())
    found: dict[str, Any] = {"verdict": verdict(relation), "simpson": relation.simpson(), "without_value": without}
    found["adjusted_for"] = relation.adjusted_for
    for name in ESTIMANDS:
        if name in relation.refused:
            found[name] = {"refused": relation.refused[name]}
            continue
        estimate = relation.estimates[name]
        found[name] = {"n": estimate.n, "cells": estimate.clusters, "residual_dof": estimate.residual_dof}
        found[name]["x_sd"] = estimate.x_sd
        for part in ("pearson", "spearman", "slope"):
            value: Estimate | None = getattr(estimate, part)
            found[name][part] = None if value is None else {"value": value.value, "low": value.low, "high": value.high}
    return found


# ------------------------------------------------------------------------------------------------- drawing

POINTS = 500
"""Panels of more trials have their points as an image in the SVG, which otherwise takes most of the time."""


def draw(panels: Sequence[Panel], relations: dict[str, list[Relation]], name: str, **how: int) -> dict[str, bytes]:
    """The figure as PNG and SVG: one row per panel, one column per headline measure, colour = arm."""
    shown = [panel for panel in panels if panel.arms]
    arms = sorted({arm for panel in shown for arm in panel.arms}, key=lambda arm: (_bare(arm), arm))
    looks = {
        arm: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]) for i, arm in enumerate(arms)
    }
    with sheet(12.5, 0.75 + 3.35 * len(shown)) as drawn:
        figure = drawn.figure
        figure.suptitle(
            f"{name}: diversity of the views and accuracy of the student (association, not effect)", fontsize=11
        )
        rows = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
        for row, panel in zip(rows, shown, strict=True):
            row.suptitle(_short_title(panel), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
            axes = row.subplots(1, len(HEADLINE), sharey=True)
            of_measure = {relation.measure: relation for relation in relations[panel.name]}
            for index, (axis, measure) in enumerate(zip(axes, HEADLINE, strict=True)):
                _draw_measure(axis, panel, of_measure[measure], looks, **how)
                if index == 0:
                    axis.set_ylabel(f"student accuracy, {panel.accuracy_on} (%)")
        _legend(figure, looks)
    return drawn.files


def _short_title(panel: Panel) -> str:
    return (
        "search survivors: selected on accuracy, biased (a true r of .5 shows as .34)" if panel.biased else panel.title
    )


def _legend(figure: Any, looks: dict[str, tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6,
               markerfacecolor="none" if _bare(arm) else colour,
               label=f"{arm} (no views, not fitted)" if _bare(arm) else arm)
        for arm, (colour, marker) in looks.items()
    ]  # fmt: skip
    handles.append(Line2D([], [], color="#333333", linewidth=1.5, label="pooled fit, 95 % band"))
    if sum(not _bare(arm) for arm in looks) > 1:
        handles.append(Line2D([], [], color="#777777", linewidth=1, linestyle="--", label="within-arm slope"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)), frameon=False)


def _draw_measure(axis: Any, panel: Panel, relation: Relation, looks: dict[str, tuple[str, str]], **how: int) -> None:
    from matplotlib.patches import Rectangle

    use = panel.fitted(relation.measure)
    arms = np.array(panel.arms, object)
    x_N, y_N = panel.measures[relation.measure], panel.accuracy
    viewless = panel.viewless() & np.isfinite(y_N)
    area = float(np.clip(26 * (100 / max(1, use.sum())) ** 0.5, 5, 26))
    as_image = len(panel.arms) > POINTS  # all of them, as each change to shapes and back costs an image of the page
    for arm, (colour, marker) in looks.items():
        mine, bare = use & (arms == arm), viewless & (arms == arm)
        axis.scatter(
            x_N[mine],
            y_N[mine],
            s=area,
            c=colour,
            marker=marker,
            alpha=0.8,
            linewidths=0.3,
            edgecolors="white",
            zorder=3,
            rasterized=as_image,
        )
        outline = {"color": colour, "marker": marker, "markersize": area**0.5, "markerfacecolor": "none"}
        gutter = axis.get_yaxis_transform()  # x in shares of the axis: these trials have no diversity
        x_gutter = np.full(bare.sum(), 0.035)
        axis.plot(x_gutter, y_N[bare], transform=gutter, linestyle="", zorder=3, rasterized=as_image, **outline)
    if viewless.any():
        axis.add_patch(Rectangle((0, 0), 0.07, 1, transform=axis.transAxes, color="#eeeeee", zorder=0, linewidth=0))
    cells = [cell for cell, used in zip(panel.cells, use, strict=True) if used]
    if use.any():
        low, high = x_N[use].min(), x_N[use].max()
        width = (high - low) or abs(high) or 1.0
        axis.set_xlim(low - width * (0.14 if viewless.any() else 0.05), high + width * 0.05)
    if use.sum() > 2:
        grid = np.linspace(x_N[use].min(), x_N[use].max(), 60)
        band = stats.line_band(x_N[use], y_N[use], cells, grid, **how)
        if band is not None:
            axis.plot(grid, band[0], color="#333333", linewidth=1.5, zorder=4)
            axis.fill_between(grid, band[1], band[2], color="#333333", alpha=0.13, linewidth=0, zorder=1)
    _draw_within(axis, relation, x_N, y_N, {arm: use & (arms == arm) for arm in looks}, looks)
    axis.set_xlabel(SYMBOLS[relation.measure])
    axis.set_title(_axis_title(relation), loc="left")
    axis.grid(color="#e6e6e6", linewidth=0.5, zorder=0)
    axis.locator_params(axis="x", nbins=5)


def _draw_within(axis: Any, relation: Relation, x_N: Floats, y_N: Floats, members: dict[str, Any], looks: Any) -> None:
    within = relation.estimates.get("within_arm")
    fitted = {arm: mine for arm, mine in members.items() if mine.any()}
    if within is None or within.slope is None or len(fitted) < 2:
        return
    for arm, mine in fitted.items():
        ends = np.array([x_N[mine].min(), x_N[mine].max()])
        line = y_N[mine].mean() + within.slope.value * (ends - x_N[mine].mean())
        axis.plot(ends, line, color=looks[arm][0], linewidth=1, linestyle="--", zorder=2)


def _axis_title(relation: Relation) -> str:
    pooled = relation.estimates["pooled"]
    if pooled.clusters < SMALL:
        return f"n = {pooled.n}: too few to conclude anything"
    title = f"r = {_interval(pooled.pearson)}, n = {pooled.n}" if pooled.pearson else f"n = {pooled.n}, no fit"
    within = relation.estimates.get("within_arm")
    if within is not None and within is not pooled:
        title += f"\nwithin arms r = {_interval(within.pearson)}"
    elif "within_arm" in relation.refused:
        title += "\nwithin arms: refused, n too small"
    return title.replace("-", "\N{MINUS SIGN}")


# ------------------------------------------------------------------------------------------------- command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="diversity_accuracy",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Relates each diversity measure of the views to the accuracy of the student.\n\n"
        + "\n".join(ESTIMANDS.values())
        + "\n\nThe headline uses probe trials, which are never pruned. Search survivors stand in a second panel: they\n"
        "were selected on accuracy. Works on a running study; the figures are an association, never an effect.",
        epilog="examples:\n  akdtune analyze diversity_accuracy runs/digits_angular\n"
        "  python analysis/diversity_accuracy.py runs/digits_angular --out figures\n\n"
        "writes diversity_accuracy.json, .png and .svg",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a study directory, e.g. runs/digits_angular")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: RUN/reports)")
    parser.add_argument("--draws", type=int, default=stats.DRAWS, help="bootstrap draws (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the analysis; 0 when it ran, 2 for a mistake of the user."""
    return reports.exit_code(_arguments, _analyze, argv)


def _analyze(arguments: argparse.Namespace) -> None:
    print(f"diversity and accuracy in {results.require_study(arguments.run)}", flush=True)
    if arguments.draws < 100:
        raise AkdtuneError(f"--draws: {arguments.draws} is too few for an interval (allowed: 100 or more)")
    _run(arguments.run, arguments.out or arguments.run / "reports", draws=arguments.draws, seed=arguments.seed)


def _run(run_dir: Path, out: Path, *, draws: int, seed: int) -> None:
    from rich.console import Console

    console = Console(markup=False, width=None if sys.stdout.isatty() else 140)
    panels, counts = panels_of(run_dir)
    console.print(f"{sum(counts.values())} trials: {_counts(counts)}", highlight=False)
    if counts.keys() & {"planned", "running", "interrupted"}:
        console.print("the study is not finished: the numbers will change", highlight=False)
    relations = {panel.name: relate(panel, list(panel.measures), draws=draws, seed=seed) for panel in panels}
    for panel in panels:
        print_panel(console, panel, relations[panel.name])
    if not any(panel.name == "probe" and panel.arms for panel in panels):
        console.print("\nno probe trial has finished: there is no headline figure yet", highlight=False)
    console.print(
        "\nassociation, never effect; intervals: 95 % over cells, not corrected for the number of measures (bootstrap; "
        f"beyond {stats.LARGE} cells, Spearman's beyond {stats.LARGE_FOR_RANKS}, by influence values)",
        highlight=False,
    )
    content = report(panels, relations, counts, draws=draws, seed=seed)
    written = [reports.save_json(out / "diversity_accuracy.json", content)]
    if any(panel.arms for panel in panels):
        for kind, image in draw(panels, relations, run_dir.resolve().name, draws=draws, seed=seed).items():
            written.append(reports.save(out / f"diversity_accuracy.{kind}", image))
    console.print("written: " + ", ".join(map(str, written)), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
