"""Controls of a configuration, one word each: the same trial without what a study claims to be the reason.

Every control that distils keeps the base's weight of the student's cross-entropy as a number and all of its terms, so
that nothing else differs. Controls with an objective of their own (`student_only`, `label_smoothing`, `independent`)
say so.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from akdtune.designs.changes import spelled_out
from akdtune.designs.selecting import NO_SELECTION, RANDOM_ROWS, SAME_ROWS, SAME_STEPS, random_instead, share_of
from akdtune.errors import AkdtuneError, unknown_name
from akdtune.registry import NO_NETWORK, ComponentSettings, Pair, lookup, names, typed
from akdtune.settings.training import TrainingSettings
from akdtune.settings.trial import resolve_ce_weight, selection_of

MATCHES = {
    "weight_matched": "weight",
    "shrink_matched": "shrink",
    "entropy_matched": "entropy",
    "target_matched": "target",
}

OTHER_ORDER = 100_003
"""What is added to the order seed of a student that sees the same images in another order."""

REPLICAS = {"replica": 1, "replica_2": 2, "replica_3": 3}
"""Controls that train the base again, each with a rounding of its own (`seeds.rounding`)."""

WIDEST = 16.0
"""A cnn is widened at most so many times."""


NetworkInputs: TypeAlias = tuple[int, int, int] | Any
"""What networks are built for: numbers of images, as a reader without torch knows them, or a `Spec`."""


@dataclass(frozen=True)
class ControlContext:
    """What a control may depend on beside the base's own sections.

    Attributes:
        pair: what published settings depend on.
        inputs: what networks are built for: of images (channels, height = width, number of classes), else a `Spec`.
        teacher: the teacher's network, a name or `{name: ..., settings}`.
        others: networks of further teachers.
    """

    pair: Pair
    inputs: NetworkInputs
    teacher: str | Mapping[str, Any] = NO_NETWORK
    others: tuple[str | Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Control:
    """One control of one base.

    Attributes:
        name: of the control.
        sections: views, method (a list), selection, student and training of its trial, to be filled in like any other.
        explanation: one sentence.
        seeds_shift: what is added to seeds by name; empty where it trains with the base's own.
        repeats: whether it is the base's own experiment in exact arithmetic.
    """

    name: str
    sections: Mapping[str, Any]
    explanation: str
    seeds_shift: Mapping[str, int] = field(default_factory=dict)
    repeats: bool = False


class _Base:
    """The configuration that is controlled."""

    def __init__(self, sections: Mapping[str, Any], context: ControlContext) -> None:
        self.sections = spelled_out(sections)
        self.context = context
        self.views: dict[str, Any] = self.sections["views"]
        self.methods: list[str] = [term["name"] for term in self.sections["method"]]

    def refused(self, control: str, why: str) -> AkdtuneError:
        return AkdtuneError(f"control '{control}' makes no sense here: {why}")

    @property
    def selection(self) -> dict[str, Any] | None:
        """Which rows are distilled; None for all."""
        chosen: dict[str, Any] | None = selection_of(self.sections)
        return chosen

    def with_views(self, control: str) -> None:
        """Refuses a control of views where there are none."""
        if self.views["name"] == "none":
            raise self.refused(control, "the base has no views")
        if self.views["name"] == "matched":
            raise self.refused(control, "the base is a control of views itself")

    def settings_of_views(self) -> ComponentSettings:
        return typed("views", self.views)

    def warmup_epochs(self) -> int:
        return int(lookup("views", self.views["name"]).warmup_epochs_of(self.settings_of_views()))

    def ce_weight(self) -> float:

        methods = [lookup("methods", name) for name in self.methods]
        return resolve_ce_weight(TrainingSettings(**self.sections["training"]), methods, self.context.pair)

    def changed(self, **changes: Any) -> dict[str, Any]:
        """The base's sections with its cross-entropy weight as a number, and some sections replaced."""
        sections = copy.deepcopy(self.sections)
        sections["training"] = {**sections["training"], "ce_weight": self.ce_weight()}
        return {**sections, **copy.deepcopy(changes)}

    def own_objective(self, method: str) -> dict[str, Any]:
        """Without views and teacher, with the weight of the cross-entropy that belongs to another method."""
        training = {**self.sections["training"], "ce_weight": lookup("methods", method).ce_weight(self.context.pair)}
        return self.changed(
            views={"name": "none"}, method=[{"name": method}], training=training, selection=NO_SELECTION
        )


def build(name: str, base: Mapping[str, Any], context: ControlContext) -> Control:
    """A control of a configuration.

    Args:
        name: one of `NAMES`.
        base: views, method, selection, student and training, as written or filled in.
        context: data set and networks.

    Raises:
        AkdtuneError: for an unknown name, and where the control makes no sense for this base, with the reason.
    """
    if name not in _BUILDERS:
        raise AkdtuneError(unknown_name("control", name, _BUILDERS))
    return _BUILDERS[name](name, _Base(base, context))


def _alone(name: str, base: _Base) -> Control:
    said = {
        "student_only": "The student without a teacher, with its own objective (cross-entropy of weight {}): what"
        " distillation adds at all.",
        "label_smoothing": "The student without a teacher on smoothed labels, with its own objective (cross-entropy of"
        " weight {}): what a softer target adds without anything that a teacher knows.",
        "independent": "The student without a teacher from the same initial weights in another order of images, with"
        " its own objective (cross-entropy of weight {}): how far two students agree without distillation.",
    }
    sections = base.own_objective("label_smoothing" if name == "label_smoothing" else "student_only")
    explanation = said[name].format(f"{sections['training']['ce_weight']:g}")
    return Control(name, sections, explanation, {"order": OTHER_ORDER} if name == "independent" else {})


def _kd(name: str, base: _Base) -> Control:
    if "kd" in base.methods:
        if base.views["name"] == "none" and base.selection is None:
            raise base.refused(name, "the base is kd without views already")
        terms = " + ".join(base.methods)
        sections = base.changed(views={"name": "none"}, selection=NO_SELECTION)
        return Control(name, sections, f"The plain teacher with the base's own {terms}: the same terms without views.")
    sections = base.changed(views={"name": "none"}, method=[{"name": "kd"}], selection=NO_SELECTION)
    weight = sections["training"]["ce_weight"]
    return Control(
        name, sections, f"Plain kd with its published settings and the base's cross-entropy weight {weight:g}."
    )


def _plain(name: str, base: _Base) -> Control:
    base.with_views(name)
    sections = base.changed(views={"name": "none"})
    terms = " + ".join(base.methods)
    return Control(name, sections, f"The base's {terms} with the plain teacher: what the views add in all.")


def _matched(name: str, base: _Base) -> Control:
    base.with_views(name)
    view, match = base.views["name"], MATCHES[name]
    said = {
        "weight": f"The targets of {view} with the same number, weights and normalisation, every member the teacher's"
        " own output: what is left of the difference is what the views say.",
        "shrink": f"The targets of {view} without their noise, with their weights and their shrink: what is left of the"
        " difference is the noise.",
        "entropy": f"One teacher target at the temperature at which it is as uncertain as the target of {view}: what is"
        " left of the difference is more than softness.",
        "target": f"The targets of {view} filled with the teacher at the temperature at which it is as uncertain as"
        " theirs: both the weights and the softness are matched.",
    }[match]
    if match == "shrink" and lookup("views", view).without_noise(base.settings_of_views()) is None:
        match, said = "weight", f"{view} has no shrink, so that this is weight_matched."
    return Control(name, base.changed(views={"name": "matched", "of": base.views, "match": match}), said)


def _heads(name: str, base: _Base) -> Control:
    base.with_views(name)
    view = base.views["name"]
    settings = lookup("views", view).control_settings(name, base.settings_of_views())
    if settings is None:
        needed = "no heads that learn from labels" if name == "heads_labels_only" else "no heads with losses"
        raise base.refused(name, f"the views '{view}' with these settings have {needed}")
    said = {
        "heads_labels_only": f"The heads of {view} trained by the labels alone: what its angular losses add.",
        "ensemble_without_losses": f"The ensemble of {view} with heads that stay as drawn: what training heads adds.",
    }[name]
    return Control(name, base.changed(views={"name": view, **settings}), said)


def _random(name: str, base: _Base) -> Control:
    if base.views["name"] == "random":
        raise base.refused(name, "the base has noise for a teacher already")
    reads = [method for method in base.methods if lookup("methods", method).consumes in ("logits", "pooled")]
    if not reads:
        raise base.refused(
            name, f"{' and '.join(base.methods)} read neither logits nor the pooled feature of a teacher"
        )
    said = "Noise in the teacher's place in the same losses: what a loss does without anything that a teacher knows."
    rows = random_instead(base.selection) or base.selection  # chosen rows would tell what the teacher knows
    return Control(name, base.changed(views={"name": "random"}, selection=rows or NO_SELECTION), said)


def _random_selection(name: str, base: _Base) -> Control:
    rows = random_instead(base.selection)
    if rows is None:
        why = "the base distils all rows" if base.selection is None else "the base draws its rows at random already"
        raise base.refused(name, why)
    said = "As many rows of each batch, drawn at random: what is left of the difference is which rows were chosen."
    return Control(name, base.changed(selection=rows), said)


def _row_matched(name: str, base: _Base) -> Control:
    """All rows for as many epochs as distil as many rows as the base does: share x epochs.

    It is the comparison of AdaSPEC's paper (arXiv 2510.19779) from its other side: there the selected arm trains for
    epochs / share beside a plain one of these epochs.
    """
    selection = base.selection
    if selection is None:
        raise base.refused(name, "the base distils all rows")
    share = share_of(selection)
    if share is None:
        raise base.refused(name, f"'{selection['name']}' keeps another number of rows in each batch")
    sections = base.changed(selection=NO_SELECTION)
    epochs = max(1, round(share * TrainingSettings(**base.sections["training"]).epochs))
    _train_for(epochs, sections, base)
    said = f"All rows for {epochs} epochs, so that as many rows are distilled as by the base, in fewer steps."
    return Control(name, sections, said)


def _step_matched(name: str, base: _Base) -> Control:
    """As many steps of the optimiser for all that train, without what the base adds to a step.

    Of a base that selects rows: the same without its selection, in the same epochs, which are as many steps. Of one
    with views alone: the plain teacher, for as many epochs as the base and the warm-up of its views take together.
    """
    if base.selection is not None:
        epochs = TrainingSettings(**base.sections["training"]).epochs
        said = f"All rows for the same {epochs} epochs, in as many steps: what choosing rows adds or costs."
        return Control(name, base.changed(selection=NO_SELECTION), said)
    base.with_views(name)
    sections, extra = base.changed(views={"name": "none"}), base.warmup_epochs()
    if not extra:
        return Control(name, sections, f"{base.views['name']} has no warm-up, so that this is plain.")
    epochs = TrainingSettings(**base.sections["training"]).epochs + extra
    _train_for(epochs, sections, base)
    said = f"The plain teacher for {epochs} epochs, as many as the base and the warm-up of its views take together."
    return Control(name, sections, said)


def _train_for(epochs: int, sections: dict[str, Any], base: _Base) -> None:
    """Sets the number of epochs, with milestones at the same shares of them."""
    training = TrainingSettings(**base.sections["training"])
    sections["training"]["epochs"] = epochs
    if training.milestones is not None:
        scaled = (round(milestone * epochs / training.epochs) for milestone in training.milestones)
        sections["training"]["milestones"] = sorted(set(scaled))


def _parameter_matched(name: str, base: _Base) -> Control:
    student = base.sections["student"]
    if student.get("checkpoint") is not None:
        raise base.refused(name, "the student begins with the weights of a file, which no other network can load")
    own, beside = parameters_of(base.sections, base.context)
    if not beside:
        raise base.refused(name, "nothing trains beside the student")
    candidates = _family(student["network"], own + beside, base.context.inputs)
    network, count = min(candidates, key=lambda candidate: abs(candidate[1] - own - beside), default=(None, 0))
    if network is None or abs(count - own - beside) >= beside:
        raise base.refused(
            name, f"no network of the student's family is nearer to {own + beside:,} parameters than it is ({own:,})"
        )
    said = (
        f"The plain teacher and a student of {count:,} parameters instead of {own:,}: the base trains {own + beside:,}"
        f" with everything beside the student."
    )
    sections = base.changed(views={"name": "none"}, student={**student, "network": network})
    return Control(name, sections, said)


def _replica(name: str, base: _Base) -> Control:
    student = base.sections["student"]
    if student.get("train", "all") == "all" and _student_draws(json.dumps(student["network"]), base.context.inputs):
        # late: networks load torch; reading this module needs none
        from akdtune import networks

        raise base.refused(name, networks.draws_sentence(student["network"]))
    order = "another order" if name == "replica" else "an order of its own"
    said = (
        f"The base again, its batches summed in {order}: the same experiment in exact arithmetic, so that its"
        " difference from the base is what rounding alone makes of a run."
    )
    return Control(name, copy.deepcopy(base.sections), said, {"rounding": REPLICAS[name]}, repeats=True)


@functools.cache
def _student_draws(network: str, inputs: NetworkInputs) -> bool:
    """Whether a student (JSON) draws random numbers; False where it cannot be built here, which its trial says."""
    # late: networks load torch; reading this module needs none
    from akdtune import networks

    spec = _spec(inputs)
    asked = json.loads(network)
    if isinstance(asked, dict) and "weights" in asked:
        asked["weights"] = None  # what it draws does not depend on them, and they may have to be fetched
    try:
        return networks.draws(networks.build(asked, spec, 0), spec)
    except AkdtuneError:
        return False


_BUILDERS: Mapping[str, Callable[[str, _Base], Control]] = {
    "student_only": _alone,
    "label_smoothing": _alone,
    "kd": _kd,
    "plain": _plain,
    **dict.fromkeys(MATCHES, _matched),
    "heads_labels_only": _heads,
    "ensemble_without_losses": _heads,
    "random_teacher": _random,
    "independent": _alone,
    SAME_STEPS: _step_matched,
    RANDOM_ROWS: _random_selection,
    SAME_ROWS: _row_matched,
    "parameter_matched": _parameter_matched,
    **dict.fromkeys(REPLICAS, _replica),
}
NAMES = tuple(_BUILDERS)
"""Every control."""


# ---------------------------------------------------------------------------------------------------------- parameters


def parameters_of(sections: Mapping[str, Any], context: ControlContext) -> tuple[int, int]:
    """Numbers of parameters: of the student, and of everything that trains beside it, before or with it."""
    # late: parameter_matched alone counts parameters; reading a study needs no torch
    import torch

    from akdtune import networks
    from akdtune.contexts import method_context, view_context

    sections, inputs = spelled_out(sections), _spec(context.inputs)
    student = networks.build(sections["student"]["network"], inputs, 0)
    built = [
        None if name == NO_NETWORK else networks.build(name if isinstance(name, str) else dict(name), inputs, 0)
        for name in (context.teacher, *context.others)
    ]
    others = [network for network in built[1:] if network is not None]
    of_views = view_context(student, built[0], others, inputs.num_classes, torch.device("cpu"), 0)
    views = lookup("views", sections["views"]["name"])(typed("views", sections["views"]), of_views)
    trained = list(views.parameters()) if views.trains_jointly or views.warmup_epochs else []
    labels_N = torch.arange(2 * inputs.num_classes) % inputs.num_classes
    epochs = TrainingSettings(**sections["training"]).epochs
    for term in sections["method"]:
        of_method = method_context(term["name"], student, built[0], labels_N, inputs.num_classes, epochs, 0)
        trained += lookup("methods", term["name"])(typed("methods", term), of_method).parameters()
    return _count(student.parameters()), _count(parameter for parameter in trained if parameter.requires_grad)


def _spec(inputs: NetworkInputs) -> Any:
    # late: a spec of images is known to torch's users alone; reading this module needs none
    from akdtune.signals import InputSpec

    return InputSpec(*inputs) if isinstance(inputs, tuple) else inputs


def _count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _family(network: str | dict[str, Any], wanted: int, inputs: NetworkInputs) -> list[tuple[Any, int]]:
    """Networks of the same file as a student's with their numbers of parameters; of a cnn, the nearest widths."""
    name = network if isinstance(network, str) else network["name"]
    if name == "cnn":
        return [_widened(network, wanted, inputs)]
    module = lookup("networks", name).__module__
    family: list[tuple[Any, int]] = []
    for other in names("networks"):
        if other == name or lookup("networks", other).__module__ != module:
            continue
        count = _size(other, inputs)
        if count is not None:
            family.append((other, count))
    return family


def _size(network: str | dict[str, Any], inputs: NetworkInputs) -> int | None:
    """The number of parameters of a network; None where it cannot be built for these images.

    Built for real: torch takes seconds to import what it needs to build one without memory.
    """
    # late: parameter_matched alone counts parameters; reading a study needs no torch
    from akdtune import networks

    try:
        return _count(networks.build(network, _spec(inputs), 0).parameters())
    except AkdtuneError:
        return None


def _widened(network: str | dict[str, Any], wanted: int, inputs: NetworkInputs) -> tuple[Any, int]:
    """The cnn whose widths are the student's times one factor, nearest to a number of parameters."""

    settings = typed("networks", network)
    widths = list(getattr(settings, "widths"))
    low, high = 1.0, WIDEST
    tried: dict[tuple[int, ...], int] = {}
    for _ in range(24):
        middle = (low + high) / 2
        scaled = tuple(max(1, round(width * middle)) for width in widths)
        size = tried.get(scaled) or _size({"name": "cnn", **settings.model_dump(), "widths": list(scaled)}, inputs)
        assert size is not None, "a wider cnn can be built where the student's can"
        tried[scaled] = size
        low, high = (middle, high) if size < wanted else (low, middle)
    best = min(tried, key=lambda candidate: abs(tried[candidate] - wanted))
    return {"name": "cnn", **settings.model_dump(), "widths": list(best)}, tried[best]
