"""`akdtune diff`: two trials of a study, or two of its cells, beside each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from akdtune.errors import AkdtuneError
from akdtune.metric import in_percent, of_trials
from akdtune.records import plan_file
from akdtune.records.lock_file import metric_of
from akdtune.reports.one_trial import centre
from akdtune.reports.one_trial.curve import course, sparkline
from akdtune.reports.one_trial.history import history
from akdtune.reports.one_trial.names import Named
from akdtune.reports.one_trial.text import headline, setting_table, wrapped
from akdtune.reports.origin import OF_A_TRIAL
from akdtune.reports.text import counted, interval, number, probability, signed
from akdtune.statistics import paired

CURVE_WIDTH = 44
FEW_SETTINGS = 3
"""Of a component that only one of the two has: so many are named."""

POINTS = 5
"""Epochs of two curves whose values are written out."""

MEASURED = ("score", "train_accuracy", "epochs", "attempts", "wall_time_s")
"""Results of two trials that are written beside each other, behind their metric on test and validation images."""


def difference_lines(run: Path, a: Named, b: Named) -> list[str]:
    """What differs between two trials, or two configurations paired by seed.

    Args:
        run: the study directory.
        a: one of them.
        b: the other.

    Raises:
        AkdtuneError: for the same twice.
    """
    if a.trial_ids == b.trial_ids:
        raise AkdtuneError(f"{a.name} and {b.name} are the same; name two")
    plans = {str(plan["trial_id"]): plan for plan in plan_file.read_plan(run)}
    lines = [line for mark, one in (("A", a), ("B", b)) for line in wrapped(f"{mark}: {_described(one)}")]
    lines += _settings(plans.get(a.trial_ids[0]), plans.get(b.trial_ids[0]))
    single = len(a.rows) == len(b.rows) == 1
    if single:
        lines += _results(a.rows[0], b.rows[0]) + _curves(run, a.trial_ids[0], b.trial_ids[0])
    else:
        lines += _paired(a, b)
    return lines + _origins(a, b)


def _described(one: Named) -> str:
    if len(one.rows) == 1:
        return headline(one.rows[0])
    first = one.rows[0]
    seeds = ", ".join(str(row["seed"]) for row in one.rows)
    return f"cell {one.name} ({first['arm']}, {first['role']}): {counted(len(one.rows), 'trial')}, seeds {seeds}"


def _settings(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> list[str]:
    if a is None or b is None:
        return ["", "settings are not known: the plan lacks them"]
    differing = _gathered(centre.differences(a["settings"], b["settings"]))
    if a["seed"] != b["seed"]:
        differing.append(centre.Setting("seed", a["seed"], b["seed"]))
    return setting_table(differing, "settings that differ", "B", "A") or ["", "no setting differs"]


def _gathered(settings: Sequence[centre.Setting]) -> list[centre.Setting]:
    """Settings of a component that only one of the two has, as one line where they are many."""
    groups: dict[tuple[str, bool], list[centre.Setting]] = {}
    for setting in settings:
        if centre.ABSENT in (setting.value, setting.other):
            component = ".".join(setting.path.split(".")[: 2 if setting.path.startswith("method.") else 1])
            groups.setdefault((component, setting.other == centre.ABSENT), []).append(setting)
    large = {key: group for key, group in groups.items() if len(group) > FEW_SETTINGS}
    gone = {id(setting) for group in large.values() for setting in group}
    kept = [setting for setting in settings if id(setting) not in gone]
    return kept + [
        centre.Setting(f"{component}.*", *((f"{len(group)} more", centre.ABSENT)[:: 1 if mine else -1]))
        for (component, mine), group in large.items()
    ]


def _results(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    rows = []
    metric = of_trials(a)
    for name in (metric.test, metric.validation, *MEASURED):
        if a.get(name) is None and b.get(name) is None:
            continue
        known = isinstance(a.get(name), int | float) and isinstance(b.get(name), int | float)
        gap = signed(float(a[name]) - float(b[name])) if known else ""
        rows.append((name, _number(a.get(name)), _number(b.get(name)), gap))
    for name in ("status", "stop_reason"):
        if a.get(name) != b.get(name):
            rows.append((name, str(a.get(name) or ""), str(b.get(name) or ""), ""))
    lines = ["", f"{'results':18}{'A':>14}{'B':>14}{'A less B':>12}"]
    for name, of_a, of_b, gap in rows:
        long = max(len(of_a), len(of_b)) > 13
        lines += wrapped(f"{name}: {of_a or '-'}; {of_b or '-'}", "  ") if long else [
            f"  {name:16}{of_a:>14}{of_b:>14}{gap:>12}".rstrip()
        ]  # fmt: skip
    return lines


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _curves(run: Path, a: str, b: str) -> list[str]:
    metric = metric_of(run)
    courses = [course(history(run, trial_id).rows, metric) for trial_id in (a, b)]
    (column, of_a), (other, of_b) = courses
    if not of_a or not of_b or column != other:
        return []
    every = [*of_a.values(), *of_b.values()]
    low, high = min(every), max(every)
    longest = max(len(of_a), len(of_b))
    lines = ["", f"{column}, {low:.2f} to {high:.2f}"]
    for mark, values in (("A", of_a), ("B", of_b)):
        width = max(1, round(min(CURVE_WIDTH, longest) * len(values) / longest))
        line = sparkline([values[epoch] for epoch in sorted(values)], low, high, width)
        lines.append(f"  {mark} {line}  last {values[max(values)]:.2f}, best {max(values.values()):.2f}")
    common = sorted(of_a.keys() & of_b.keys())
    shown = sorted(
        {common[round(place * (len(common) - 1) / (POINTS - 1))] for place in range(POINTS)} if common else ()
    )
    heads = "".join(f"{epoch:>9}" for epoch in shown)
    return [
        *lines,
        f"  {'epoch':8}{heads}",
        *(f"  {mark:8}" + "".join(f"{values[e]:>9.2f}" for e in shown) for mark, values in (("A", of_a), ("B", of_b))),
        f"  {'A less B':8}" + "".join(f"{signed(of_a[epoch] - of_b[epoch]):>9}" for epoch in shown),
    ]


def _judged(named: Named) -> tuple[str, str]:
    """The metric of the study on test and validation images."""
    metric = of_trials(named.rows[0])
    return metric.test, metric.validation


def _paired(a: Named, b: Named) -> list[str]:
    """Both cells by seed, and the mean of their differences with its interval."""
    done = [{int(row["seed"]): row for row in one.rows if row["status"] == "done"} for one in (a, b)]
    metric = next(
        (name for name in _judged(a) if all(any(_known(row, name) for row in of.values()) for of in done)), None
    )
    if metric is None:
        return ["", "results: no trial of both has finished with a value"]
    of_a, of_b = ({s: float(row[metric]) for s, row in of.items() if _known(row, metric)} for of in done)
    lines = ["", f"{metric + ' by seed':28}{'A':>10}{'B':>10}{'A less B':>12}"]
    for seed in sorted(of_a.keys() | of_b.keys()):
        gap = signed(of_a[seed] - of_b[seed]) if seed in of_a and seed in of_b else ""
        cells = [number(of.get(seed)) if seed in of else "-" for of in (of_a, of_b)]
        lines.append(f"  {seed:<26}{cells[0]:>10}{cells[1]:>10}{gap:>12}".rstrip())
    summaries = [paired.cell_summary(list(of.values())) for of in (of_a, of_b)]
    lines.append(f"  {'mean':26}{number(summaries[0].mean):>10}{number(summaries[1].mean):>10}")
    lines.append(f"  {'sd':26}{number(summaries[0].sd):>10}{number(summaries[1].sd):>10}")
    return [*lines, "", *wrapped(_verdict(paired.paired_difference(of_a, of_b), metric))]


def _verdict(found: paired.Difference, metric: str) -> str:
    unit = " points" if in_percent(metric) else ""
    if found.difference is None:
        return "no seed is finished in both, so that nothing can be paired"
    text = f"A less B: {signed(found.difference)}{unit} over {counted(found.n_pairs, 'seed')}"
    if found.ci_low is None:
        return text + ("; one pair has no interval" if found.n_pairs < 2 else "; without spread there is no interval")
    text += f", 95 % interval {interval(found.ci_low, found.ci_high)}, p {probability(found.p)} (paired t, by itself)"
    resolved = not found.ci_low <= 0 <= (found.ci_high or 0)
    return text + ("" if resolved else ": not resolved, the interval holds 0")


def _known(row: Mapping[str, Any], name: str) -> bool:
    return isinstance(row.get(name), int | float)


def _origins(a: Named, b: Named) -> list[str]:
    """Processors and versions, where they are not the same."""
    of_a, of_b = (_trained_on(one.rows) for one in (a, b))
    lines = []
    for key in OF_A_TRIAL:
        first, second = (
            sorted({str(where.get(key)) for where in of if where.get(key) is not None}) for of in (of_a, of_b)
        )
        if first != second:
            lines += wrapped(
                f"{key}: {', '.join(first) or 'not recorded'}; {', '.join(second) or 'not recorded'}", "  "
            )
    return ["", "trained elsewhere (A; B), so that last digits may differ", *lines] if lines else []


def _trained_on(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(row["trained_on"]) for row in rows if row.get("trained_on")]
