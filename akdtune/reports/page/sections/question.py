"""What a study asks, how it goes about it, and what its controls isolate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from akdtune.reports.ablation.findings import level_text
from akdtune.reports.page.content import LeftOut, Part, Section, Sentences, Table
from akdtune.reports.page.material import Material, as_yaml, without_home
from akdtune.reports.text import counted
from akdtune.roles import REPORT_ROLES
from akdtune.settings.domains import Choice, Domain, label

SEARCHED = {"search": ("search",), "probes": ("probe",), "pilot": ("pilot",)}
REPORTED = {"confirmation": ("confirm",), "ablation": ("ablation", "control")}
"""Roles of the trials of each phase; a cell that two phases share has the role of one of them."""


def question(material: Material) -> Section | LeftOut:
    """The section that everything else answers."""
    asked = list(_questions(material))
    parts: list[Part] = [Sentences(asked, listed=len(asked) > 1)] if asked else []
    phases, subject = _phases(material), _subject(material)
    parts += [phases] if phases.rows else []
    if (shared := sum(int(row[1]) for row in phases.rows) - len(material.rows)) > 0:
        parts.append(Sentences([f"{counted(shared, 'trial')} of cells that two phases share, trained once."]))
    parts += [subject] if subject.rows else []
    parts += list(_designs(material))
    searched = _searched(material)
    parts += [searched] if searched.rows else []
    if not parts:
        return LeftOut("Question and design", "neither settings nor trials say anything yet")
    return Section("question", "Question and design", parts)


def part_of(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of the settings; empty where there is none."""
    held = settings.get(name)
    return held if isinstance(held, Mapping) else {}


def _questions(material: Material) -> Iterator[str]:
    settings, arms = material.settings, dict.fromkeys(str(row["arm"]) for row in material.of_roles("search"))
    if arms:
        which = f"which of {len(arms)} arms, and which of their settings," if len(arms) > 1 else "which settings"
        yield f"Search: {which} give the highest {material.metric.words} on validation {_counted_as(material)}?"
    if material.of_roles("probe"):
        yield (
            f"Probes: does a student's {material.metric.words} go together with how different its teacher's views are, "
            "within arms? View settings are spread evenly, the student's are fixed, nothing is pruned."
        )
    if part_of(settings, "confirm") or material.of_roles("confirm"):
        yield (
            f"Confirmation: do the best of the search hold with fresh seeds, on the test {_counted_as(material)}, "
            "beside baselines?"
        )
    for phase in material.phases:
        if phase.name == "ablation":
            factors = part_of(phase.settings, "factors")
            of = "the search's winner" if phase.settings.get("base") == "winner" else "the study's own configuration"
            which = f" ({', '.join(factors)})" if factors else ""
            design = str(phase.settings.get("design") or "design").replace("_", " ")
            yield f"Ablation, {design}: what in {of} makes the difference{which}, and what do controls explain?"


def _phases(material: Material) -> Table:
    """How many trials each phase has, on what they are trained and judged; cells of two phases are trained once."""
    full = part_of(material.settings, "report").get("train_on", "full") == "full"
    what = _counted_as(material)
    cells = {phase.name: {cell.cell_id for cell in phase.cells} for phase in material.phases}
    rows = []
    for name, roles in {**SEARCHED, **REPORTED}.items():
        held = material.of_roles(*roles)
        if (key := "confirm" if name == "confirmation" else name) in cells:
            held = [row for row in material.of_roles(*REPORT_ROLES) if row["cell_id"] in cells[key]]
        if not held:
            continue
        seeds = sorted({row["seed"] for row in held if row["seed"] is not None})
        read = name in REPORTED
        rows.append(
            [name, str(len(held)), str(len({row["cell_id"] for row in held})), _few(seeds),
             f"all training {what}" if read and full else f"training {what} without validation",
             f"test {what}, once, after the last epoch" if read else f"validation {what}"]
        )  # fmt: skip
    return Table("Phases", ["phase", "trials", "configurations", "seeds", "trained on", "judged on"], rows, (1, 2))


def _counted_as(material: Material) -> str:
    """How sentences call what trials learn from and are judged by: images, or rows of another task."""
    return "rows" if part_of(material.settings, "task") else "images"


def _few(seeds: Sequence[int]) -> str:
    if len(seeds) > 6 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds[:8])) + (f" and {len(seeds) - 8} more" if len(seeds) > 8 else "")


def _subject(material: Material) -> Table:
    """Data, teacher, student and training."""
    settings, lock = material.settings, material.lock
    data, teacher = part_of(settings, "data"), part_of(settings, "teacher")
    found, training = part_of(lock, "teacher"), part_of(settings, "training")
    rows = [["task", component(task)]] if (task := part_of(settings, "task")) else []
    if data:
        held = {key: value for key, value in data.items() if value not in (None, False) and key not in _DATA_LEFT_OUT}
        rows.append(["data", f"{data.get('name', '')} ({_listed(held)})" if held else str(data.get("name", ""))])
    if teacher and not teacher.get("absent"):
        accuracies = [
            f"{found[key]:.2f} % on {on} {_counted_as(material)}"
            for key, on in (("val_accuracy", "validation"), ("test_accuracy", "test"))
            if isinstance(found.get(key), int | float)
        ]
        seen = [f"augmentation {label(teacher['augmentation'])}"] if teacher.get("augmentation") else []
        rows.append(["teacher", "; ".join([component(teacher.get("network")), *seen, *accuracies])])
    if student := part_of(settings, "student"):
        rows.append(["student", component(student.get("network"))])
    if training:
        named = ("epochs", "batch_size", "lr", "optimizer", "augmentation")
        held = {key: training[key] for key in named if training.get(key) is not None}
        rows.append(["training", _listed(held)])
    if (search := part_of(settings, "search")) and search.get("algorithm") != "none":
        held = {key: search[key] for key in ("algorithm", "trials", "fair", "time_budget") if search.get(key)}
        rows.append(["search", _listed(held)])
    if (scheduler := part_of(settings, "scheduler")) and scheduler.get("name") != "none":
        rows.append(["early stopping", component(scheduler)])
    return Table("What is trained", [], [[name, without_home(said)] for name, said in rows], words=True)


_DATA_LEFT_OUT = (
    "name", "root", "train", "test", "stream", "memory_mib", "workers", "download", "image_column", "label_column",
    "split_seed", "augmentation", "strong",
)  # fmt: skip


def component(value: Any) -> str:
    """A component by its name with its settings: `cnn (widths: [4, 8])`."""
    if not isinstance(value, Mapping):
        return "" if value is None else as_yaml(value)
    rest = {key: held for key, held in value.items() if key != "name" and held is not None}
    name = str(value.get("name", ""))
    return f"{name} ({_listed(rest)})" if rest and name else name or _listed(rest)


def _listed(held: Mapping[str, Any]) -> str:
    texts = {key: label(value) if key == "augmentation" else as_yaml(value) for key, value in held.items()}
    return ", ".join(f"{key.replace('_', ' ')}: {text}" for key, text in texts.items())


def _designs(material: Material) -> Iterator[Part]:
    """The cells of each phase: what each changes, and what a control isolates."""
    for phase in material.phases:
        rows = []
        for cell in phase.cells:
            changes = ", ".join(f"{path} = {level_text(value)}" for path, value in cell.changes.items())
            reference = "reference" if cell.name == phase.reference else ""
            kind = "control" if cell.is_control else "cell"
            why = cell.explanation or (f"repeats {cell.replica_of}" if cell.replica_of else "")
            rows.append([cell.name, kind, cell.arm or "", changes or reference, why])
        label = "ablation" if phase.name == "ablation" else "confirmation"
        caption = f"Cells of the {label}: {counted(len(phase.seeds), 'seed')} each, the same for all"
        yield Table(caption, ["cell", "kind", "arm", "changes", "what it isolates"], rows, looks=material.looks)
        merged = [f"merged: {line}" for cell in phase.cells for line in cell.merged]
        if merged:
            yield Sentences(merged, listed=True)


def _searched(material: Material) -> Table:
    """What each searched setting is drawn from."""
    known: Mapping[str, list[Domain]] = material.domains
    rows = [[path, "; ".join(map(domain_text, domains))] for path, domains in known.items()]
    return Table("Searched settings, and what they are drawn from", [], rows, words=True)


def domain_text(domain: Domain) -> str:
    """`log uniform, 0.1 to 4` or `one of 1, 3, 5`."""
    if isinstance(domain, Choice):
        return f"one of {', '.join(map(str, domain.labels))}"
    step = f" in steps of {domain.step:g}" if domain.step else ""
    return f"{domain.kind.replace('_', ' ')}, {domain.low:g} to {domain.high:g}{step}"
