"""Which searched settings matter: PED-ANOVA and fANOVA per arm, with intervals, and accuracy against each setting.

    python analysis/importance.py runs/digits_angular
    akdtune analyze importance digits_angular

Only trials that reached their last epoch count: the score of a pruned one is that of another, earlier epoch.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from akdtune import importance_figures as figures
from akdtune import reports, results, study_tables
from akdtune.errors import AkdtuneError
from akdtune.reports import number
from akdtune.resampling import Floats

if TYPE_CHECKING:
    from rich.console import Console

    from akdtune.importances import Bin, Distribution, Evaluator, Importance

ROLES = ("search", "probe")
LEAST = 10
EVALUATORS: dict[Evaluator, str] = {"ped_anova": "PED-ANOVA", "fanova": "fANOVA"}
DRAWS, MIN_DRAWS = 100, 20
FANOVA_SHARE = 4
"""fANOVA gets one draw for so many of PED-ANOVA's: it takes ten times as long."""

ARMS_DRAWN = 8
READING = (
    "PED-ANOVA: what sets the best configurations apart; fANOVA: what explains accuracy over the whole space, in a "
    "forest's eyes; both describe the configurations that were tried, no cause"
)
SURVIVORS = (
    "pruning ended {pruned} of {all} trials early; those that finished are no random sample (low accuracies are cut "
    "off), so settings whose bad values were pruned look less important than they are; probe trials are never pruned"
)


@dataclass(frozen=True)
class Arm:
    """The finished configurations of one arm.

    Attributes:
        name: of the arm.
        configurations: searched settings by key path, each configuration once.
        scores_N: validation accuracy in percent, mean over the seeds of a configuration.
        trials: how many finished trials that were, by role.
        excluded: trials that do not count, by status.
    """

    name: str
    configurations: list[dict[str, Any]]
    scores_N: Floats
    trials: dict[str, int]
    excluded: dict[str, int]

    @property
    def settings(self) -> list[str]:
        """Key paths of settings that differ between configurations."""
        names = dict.fromkeys(name for one in self.configurations for name in one)
        return [name for name in names if len({repr(one.get(name)) for one in self.configurations}) > 1]


@dataclass(frozen=True)
class Found:
    """What one arm's trials say.

    Attributes:
        arm: the arm.
        refused: why nothing was computed; empty where it was.
        kinds: what each setting was drawn from; `guessed` names those whose range is that of the values.
        importances: by evaluator.
        marginals: by setting.
        notes: sentences.
    """

    arm: Arm
    refused: str
    kinds: dict[str, Distribution]
    guessed: list[str]
    importances: dict[Evaluator, list[Importance]]
    marginals: dict[str, list[Bin]]
    notes: list[str]

    @property
    def by_importance(self) -> list[str]:
        """Every setting, the most important first."""
        order = [share.name for shares in self.importances.values() for share in shares]
        return list(dict.fromkeys([*order, *self.kinds]))


def arms_of(run: Path, roles: Sequence[str] = ROLES) -> list[Arm]:
    """The arms of a study with their finished search and probe trials, in the order of the plan."""
    found = []
    rows = [row for row in study_tables.read_trials(run).to_pylist() if row["role"] in roles]
    for name in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == name]
        done = [row for row in mine if row["status"] == "done" and _finite(row["val_accuracy"])]
        cells: dict[str, list[Mapping[str, Any]]] = {}
        for row in done:
            cells.setdefault(row["cell_id"], []).append(row)
        settings = [
            {
                key.removeprefix("param."): value
                for key, value in of_cell[0].items()
                if key.startswith("param.") and value is not None
            }
            for of_cell in cells.values()
        ]
        scores_N = np.array(
            [np.mean([row["val_accuracy"] for row in of_cell]) for of_cell in cells.values()], np.float64
        )
        left = Counter(
            "without a value" if row["status"] == "done" else row["status"] for row in mine if row not in done
        )
        found.append(Arm(name, settings, scores_N, dict(Counter(row["role"] for row in done)), dict(left)))
    return found


def _finite(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))


def judge(arm: Arm, known: Mapping[str, Any], *, draws: int, seed: int) -> Found:
    """Importances and marginal means of one arm, or why there are none.

    Args:
        arm: its configurations.
        known: domains by setting, from the study's settings.
        draws: of PED-ANOVA.
        seed: of the draws.
    """
    from akdtune import importances

    count, settings = len(arm.configurations), arm.settings
    refused = ""
    if count < LEAST:
        refused = f"refused: {count} finished configurations, {LEAST} needed"
    elif not settings:
        refused = "refused: no searched setting differs between the configurations of this arm"
    if refused:
        return Found(arm, refused, {}, [], {}, {}, [])
    kinds, guessed, marginals = {}, [], {}
    for name in settings:
        has = [i for i, one in enumerate(arm.configurations) if name in one]
        values = [arm.configurations[i][name] for i in has]
        kinds[name], certain = importances.distribution(values, known.get(name, []))
        guessed += [] if certain else [name]
        marginals[name] = importances.marginal(values, arm.scores_N[has], kinds[name])
    shares = {
        evaluator: importances.importances(
            arm.configurations, arm.scores_N, kinds, evaluator, seed=seed,
            draws=draws if evaluator == "ped_anova" else max(MIN_DRAWS, draws // FANOVA_SHARE),
        )
        for evaluator in EVALUATORS
    }  # fmt: skip
    return Found(arm, "", kinds, guessed, shares, marginals, _notes(arm, shares, guessed))


def _notes(arm: Arm, shares: Mapping[Evaluator, Sequence[Importance]], guessed: Sequence[str]) -> list[str]:
    notes = []
    for evaluator, label in EVALUATORS.items():
        above = [one.name for one in shares[evaluator] if one.above_chance]
        if len(arm.settings) < 2 or not shares[evaluator]:
            why = "one setting alone has no share" if len(arm.settings) < 2 else "nothing to tell apart"
            notes.append(f"{label}: none ({why})")
        elif above:
            notes.append(f"{label}: above chance: {', '.join(above)}")
        else:
            notes.append(
                f"{label}: no setting is above what shuffled scores give: n = {len(arm.configurations)} is too small"
            )
    lacking = [name for name in arm.settings if not all(name in one for one in arm.configurations)]
    if lacking:
        notes.append(f"conditional, hence without fANOVA: {', '.join(lacking)}")
    if guessed:
        notes.append(
            f"the settings do not say what these were drawn from, so the range of their values was taken: "
            f"{', '.join(guessed)}"
        )
    pruned = arm.excluded.get("pruned", 0) + arm.excluded.get("diverged", 0)
    if pruned:
        notes.append(SURVIVORS.format(pruned=pruned, all=sum(arm.excluded.values()) + sum(arm.trials.values())))
    return notes


# ------------------------------------------------------------------------------------------------- reporting


def report_of(found: Sequence[Found], **how: Any) -> dict[str, Any]:
    """Everything that was computed, as plain JSON."""
    from akdtune.importances import LEVEL

    return {
        "claim": READING, "score": "val_accuracy", "level": LEVEL, "least_configurations": LEAST, **how,
        "arms": {one.arm.name: _arm_json(one) for one in found},
    }  # fmt: skip


def _arm_json(one: Found) -> dict[str, Any]:
    shares = {evaluator: {share.name: share for share in of_arm} for evaluator, of_arm in one.importances.items()}
    settings = {}
    for name, kind in one.kinds.items():
        settings[name] = {"distribution": str(kind), "from_the_values": name in one.guessed}
        for evaluator in EVALUATORS:
            share = shares[evaluator].get(name)
            settings[name][evaluator] = (
                None if share is None else {k: v for k, v in asdict(share).items() if k != "name"}
            )
        settings[name]["marginal"] = [
            {key: value for key, value in asdict(found).items() if key != "members"} for found in one.marginals[name]
        ]
    return {
        "configurations": len(one.arm.configurations), "trials": one.arm.trials, "excluded": one.arm.excluded,
        "refused": one.refused or None, "settings": settings, "notes": one.notes,
    }  # fmt: skip


def print_arm(console: Console, one: Found) -> None:
    """Prints one arm: its settings by importance, then what may be concluded."""
    from rich.table import Table

    arm = one.arm
    by_role = ", ".join(f"{count} {role}" for role, count in arm.trials.items()) or "none"
    left = ", ".join(f"{count} {status}" for status, count in arm.excluded.items()) or "none"
    console.print(f"\n{arm.name}", style="bold")
    console.print(f"{len(arm.configurations)} finished configurations (trials: {by_role}); excluded: {left}")
    if one.refused:
        console.print(one.refused)
        return
    shares = {evaluator: {share.name: share for share in of_arm} for evaluator, of_arm in one.importances.items()}
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("setting", no_wrap=True)
    for label in EVALUATORS.values():
        table.add_column(f"{label} [90 %]", justify="right", no_wrap=True)
        table.add_column("chance", justify="right", no_wrap=True)
    table.add_column("best mean at", overflow="fold")
    for name in one.by_importance:
        row = [name]
        for evaluator in EVALUATORS:
            share = shares[evaluator].get(name)
            row += ["n/a", ""] if share is None else [
                f"{number(share.share)} [{number(share.low)}, {number(share.high)}]", number(share.chance)]  # fmt: skip
        best = max(one.marginals[name], key=lambda found: found.mean)
        table.add_row(*row, f"{best.label} ({number(best.mean)})")
    console.print(table)
    for note in one.notes:
        console.print(textwrap.fill(note, console.width, initial_indent="- ", subsequent_indent="  "))


# ------------------------------------------------------------------------------------------------- figures


def draw(found: Sequence[Found], name: str) -> dict[str, bytes]:
    """The figures by file name, PNG and SVG each; of many arms the first `ARMS_DRAWN`."""
    shown = [one for one in found if not one.refused][:ARMS_DRAWN]
    drawn: dict[str, dict[str, bytes]] = {}
    shares: dict[str, dict[str, dict[str, figures.Share]]] = {}
    for one in shown:
        for evaluator, label in EVALUATORS.items():
            for share in one.importances[evaluator]:
                of_setting = shares.setdefault(_heading(one), {}).setdefault(share.name, {})
                of_setting[label] = figures.Share(share.share, share.low, share.high, share.chance)
    if shares:
        drawn["importance"] = figures.importance_panels(
            shares, title=f"{name}: importance of the searched settings for validation accuracy",
            footnote="bars: 90 % of resamples of finished configurations",
        )  # fmt: skip
    if shown:
        drawn["importance_marginals"] = figures.marginal_panels(
            {_heading(one): [_marginal(one, setting) for setting in one.by_importance] for one in shown},
            title=f"{name}: finished configurations (grey), means with 95 % intervals (blue), their number above",
            ylabel="validation accuracy (%)",
        )  # fmt: skip
    return {f"{stem}.{kind}": image for stem, files in drawn.items() for kind, image in files.items()}


def _heading(one: Found) -> str:
    pruned = one.arm.excluded.get("pruned", 0)
    survivors = f", survivors of pruning ({pruned} pruned)" if pruned else ""
    return f"{one.arm.name}, n = {len(one.arm.configurations)}{survivors}"


def _marginal(one: Found, setting: str) -> figures.Marginal:
    bins = one.marginals[setting]
    has = [i for i, configuration in enumerate(one.arm.configurations) if setting in configuration]
    options = [found.label for found in bins] if all(found.one_value for found in bins) else []
    if options:
        at = list(map(float, range(len(bins))))
        place = {member: float(index) for index, found in enumerate(bins) for member in found.members}
        x = [place[index] for index in range(len(has))]
    else:
        at = [found.x or 0.0 for found in bins]
        x = [float(one.arm.configurations[i][setting]) for i in has]
    return figures.Marginal(
        setting, x, one.arm.scores_N[has].tolist(), at, [found.mean for found in bins], [found.low for found in bins],
        [found.high for found in bins], [found.n for found in bins], options,
        bool(getattr(one.kinds[setting], "log", False)) and not options,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="importance",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Which searched settings matter for validation accuracy, arm by arm.\n\n"
        + textwrap.fill(READING, 100),
        epilog="examples:\n  akdtune analyze importance runs/digits_angular\n"
        "  python analysis/importance.py runs/digits_angular --roles probe --out figures\n\n"
        "writes importance.json, .png and .svg, and importance_marginals.png and .svg",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a study directory, e.g. runs/digits_angular")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: RUN/reports)")
    parser.add_argument("--roles", nargs="+", choices=ROLES, default=ROLES, help="whose trials (default: both)")
    parser.add_argument("--draws", type=int, default=DRAWS, help="resamples for PED-ANOVA (default: %(default)s); "
                        f"fANOVA gets one in {FANOVA_SHARE}, at least {MIN_DRAWS}")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of resamples and forests (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the analysis; 0 when it ran, 2 for a mistake of the user."""
    return reports.exit_code(_arguments, _analyze, argv)


def _analyze(arguments: argparse.Namespace) -> None:
    print(f"importance of searched settings in {results.require_study(arguments.run)}", flush=True)
    if arguments.draws < MIN_DRAWS:
        raise AkdtuneError(f"--draws: {arguments.draws} is too few for an interval (allowed: {MIN_DRAWS} or more)")
    _run(arguments.run, arguments.out or arguments.run / "reports", arguments.roles, arguments.draws, arguments.seed)


def _run(run: Path, out: Path, roles: Sequence[str], draws: int, seed: int) -> None:
    from rich.console import Console

    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 100)
    arms = arms_of(run, roles)
    if not arms:
        raise AkdtuneError(f"{run}: has no {' or '.join(roles)} trial, so nothing was searched here")
    known = _known_domains(run)
    found = []
    for arm in arms:
        found.append(judge(arm, known, draws=draws, seed=seed))
        print_arm(console, found[-1])
    console.print()
    console.print(textwrap.fill(f"{READING}; intervals: 90 % of resampled configurations", console.width))
    written = [reports.save_json(out / "importance.json", report_of(found, roles=list(roles), draws=draws, seed=seed))]
    written += [reports.save(out / file, image) for file, image in draw(found, run.resolve().name).items()]
    console.print("written: " + ", ".join(map(str, written)), soft_wrap=True)


def _known_domains(run: Path) -> dict[str, Any]:
    """What each setting was drawn from, by the study's settings; nothing where they are not known."""
    from akdtune import importances

    lock = results.read_lock(run)
    return importances.domains_of(lock["settings"]) if lock else {}


if __name__ == "__main__":
    sys.exit(main())
