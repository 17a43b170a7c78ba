"""Weights times named terms: the only place where losses are multiplied and summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from akdtune.columns import Column, joined
from akdtune.errors import AkdtuneError
from akdtune.methods import Method
from akdtune.selections import SELECTED, Selection
from akdtune.signals import Batch, Signals, Target, Teaching, Terms, WeightedTarget, labelled_cross_entropy
from akdtune.views import ViewAugmenter

SELECTION = "selection"
"""Name of what a selection draws from."""

VIEWS, STRONG_VIEWS = "views", "views/strong"
"""Names of what views draw from for the images, and for their strong versions: weak draws do not depend on these."""


def stream_of(method: str) -> str:
    """Name of what a method draws from."""
    return f"method/{method}"


class Loss(NamedTuple):
    """What one batch costs.

    Attributes:
        total: the weighted sum of everything.
        terms: every unweighted term.
        gates: open share of each gate of the views.
        logits_BK: the student's prediction.
        weighted: (weight, value) of everything in the total; the first is the student's cross-entropy.
        measured: what the selection of rows says of the batch, by column; empty where all rows are distilled.
    """

    total: Tensor
    terms: Terms
    gates: Terms
    logits_BK: Tensor
    weighted: Sequence[tuple[float, Tensor]]
    measured: Terms

    def split(self) -> tuple[Tensor, Tensor | None]:
        """The total in two parts: cross-entropy, and everything else (None where there is nothing else)."""
        (weight, value), *others = self.weighted
        return weight * value, dot(*zip(*others, strict=True)) if others else None


class Given(NamedTuple):
    """The rows of a batch that a method is given.

    Attributes:
        rows_R: their places in the batch, ascending; None: all.
        share: how many they are of those that it would be given without a selection.
    """

    rows_R: Tensor | None
    share: float


class Objective(nn.Module):
    """Cross-entropy plus any sum of base methods, each over the targets that the views offer, plus view penalties.

    total = ce_weight * CE + sum over methods m, terms t, targets i of  weight(m, t, epoch) * weight(i) * term(m, t, i)
            + sum over penalties p of  weight(p) * penalty(p)

    With a selection, a method's terms are those of the rows that it keeps, and their weight is multiplied by the share
    of rows that are kept, so that a row pulls as hard as without one. Cross-entropy and penalties count all rows.
    """

    def __init__(
        self, methods: Mapping[str, Method], views: ViewAugmenter, ce_weight: float, selection: Selection | None = None
    ) -> None:
        super().__init__()
        self.selection = selection if selection is not None and selection.selects else None
        self.methods = nn.ModuleDict(dict(methods))
        self._by_name = dict(methods)  # every step asks: a module answers slowly
        self.views = views
        self.ce_weight = ce_weight
        self.needs_maps = any(method.needs_maps() for method in methods.values())
        self.needs_strong = any("strong" in method.needs for method in methods.values())
        self.needs_teacher = any(method.consumes != "self" for method in methods.values()) or views.trains_jointly
        self.overlaps_batches = any(method.overlaps_batches for method in methods.values())

    @property
    def streams(self) -> Sequence[str]:
        """Names of all who may draw random numbers for a batch, the views' first.

        All views share a name, so that a control of some views draws what these do; a method has its own, so that its
        draws are the same under any views and beside any other method.
        """
        selecting = () if self.selection is None else (SELECTION,)
        return (VIEWS, STRONG_VIEWS, *map(stream_of, self._methods()), *selecting)

    @property
    def head(self) -> Method | None:
        """The method through which the student predicts, where one replaces its logits."""
        return next((method for method in self._methods().values() if method.replaces_logits), None)

    @override
    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Loss:
        """The weighted total, every unweighted term, and the open share of the views' gates.

        Terms are named `ce`, `<method>` or `<method>.<term>`, and `views.<penalty>`. A method that is summed over
        several targets logs their weighted sum divided by the sum of weights, so that the number of views does not
        change its scale in the log; the total holds the sum itself.
        """
        student = self._predicting(student)
        terms: Terms = {"ce": cross_entropy(student.logits_BK, batch)}
        weighted = [(self.ce_weight, terms["ce"])]
        teaching = strong = None
        if teacher is not None:
            teacher = teacher.detach()  # frozen, whatever a view or a method does with it
            teaching = self.views.teach(teacher, student, batch.given_to(VIEWS))
            if teacher.strong is not None and student.strong is not None:
                strong = self.views.teach(teacher.strong, student.strong, batch.given_to(STRONG_VIEWS))
        kept_R, measured = self._selected(student, teacher, batch)
        for name, method in self._methods().items():
            targets = targets_of(method, student, teacher, teaching, strong)
            own = batch.given_to(stream_of(name))  # one object for all targets: a method knows by it that it drew
            given = given_rows(method.reads_labels, batch, kept_R)
            parts = terms_of(method, student, targets, own, given)
            shares = [target.weight for target in targets]
            weights_of_terms = method.weights(batch.epoch)
            if parts[0].keys() != weights_of_terms.keys():
                raise AkdtuneError(
                    f"method '{name}' returns the terms {sorted(parts[0])} and weighs {sorted(weights_of_terms)}"
                )
            for term, weight in weights_of_terms.items():
                values = [part[term] for part in parts]
                weighted += [(weight * share * given.share, value) for share, value in zip(shares, values, strict=True)]
                logged = values[0] if len(values) == 1 else dot(shares, values) / sum(shares)
                terms[name if term == name else f"{name}.{term}"] = logged
        gates: Terms = {}
        if teaching is not None:
            weights = self.views.penalty_weights()
            weighted += [(weights[name], value) for name, value in teaching.penalties.items()]
            terms.update({f"views.{name}": value for name, value in teaching.penalties.items()})
            gates = teaching.gates
        return Loss(dot(*zip(*weighted, strict=True)), terms, gates, student.logits_BK, weighted, measured)

    @torch.no_grad()
    def _selected(self, student: Signals, teacher: Signals | None, batch: Batch) -> tuple[Tensor | None, Terms]:
        """Places of the rows that are distilled (None: all), and what is measured of the choice."""
        if self.selection is None:
            return None, {}
        selected = self.selection.select(student.detach(), teacher, batch.given_to(SELECTION))
        share = student.logits_BK.new_full((), len(selected.rows_R) / len(batch.labels_B))
        return selected.rows_R, {SELECTED: share, **selected.measured}

    def _predicting(self, student: Signals) -> Signals:
        """The student's signals with the prediction that is trained and evaluated."""
        head = self.head
        if head is None:
            return student
        strong = None if student.strong is None else replace(student.strong, logits_BK=head.logits(student.strong))
        return replace(student, logits_BK=head.logits(student), strong=strong)

    def after_step(self) -> None:
        """Lets methods update their memory banks, after backward and the optimiser step."""
        for method in self._methods().values():
            method.after_step()

    def measures(self) -> dict[str, float]:
        """What views and methods measure of themselves, once per epoch."""
        return {name: value for part in self._parts() for name, value in part.measures().items()}

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is declared about the numbers of `measures`; those of views belong to the views unless they say more."""
        of_views = {column.name for column in self.views.columns}
        of_selection = () if self.selection is None else (self.selection,)
        return tuple(
            replace(column, section="views") if column.name in of_views and not column.section else column
            for column in joined(*(part.columns for part in (*self._parts(), *of_selection)))
        )

    def trained_parameters(self) -> Sequence[nn.Parameter]:
        """Parameters that train beside the student: the methods' own, and the views' where they train jointly."""
        own = [parameter for method in self._methods().values() for parameter in method.parameters()]
        views = list(self.views.parameters()) if self.views.trains_jointly else []
        return [parameter for parameter in own + views if parameter.requires_grad]

    def _parts(self) -> list[ViewAugmenter | Method]:
        return [self.views, *self._methods().values()]

    def _methods(self) -> dict[str, Method]:
        return self._by_name


def cross_entropy(logits_BK: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy over the rows that have a label; with mixed images, each label by its share."""
    some_unlabelled = batch.labelled_B is not None
    own = labelled_cross_entropy(logits_BK, batch.labels_B, some_unlabelled)
    if batch.partner_labels_B is None:
        return own
    return torch.lerp(labelled_cross_entropy(logits_BK, batch.partner_labels_B, some_unlabelled), own, batch.share)


def given_rows(reads_labels: bool, batch: Batch, kept_R: Tensor | None = None) -> Given:
    """The rows that a method is given: those that a selection keeps, and where it reads labels those that have one.

    Args:
        reads_labels: whether the method does.
        batch: which rows have a label.
        kept_R: places of the rows that are distilled, ascending; None: all.
    """
    rows_R, possible = kept_R, len(batch.labels_B)
    if reads_labels and batch.labelled_B is not None:
        labelled_R = batch.labelled_B.nonzero().squeeze(1)
        rows_R = labelled_R if kept_R is None else kept_R[batch.labelled_B[kept_R]]
        possible = len(labelled_R)
    if rows_R is None or len(rows_R) == len(batch.labels_B):
        return Given(None, 1.0)
    return Given(rows_R, len(rows_R) / max(possible, 1))


def terms_of(
    method: Method, student: Signals, targets: Sequence[WeightedTarget], batch: Batch, given: Given
) -> Sequence[Terms]:
    """A method's terms for each target, over the rows that it is given; 0 where there is none."""
    rows_R = given.rows_R
    if rows_R is None:
        return [method.terms(student, target.target, batch) for target in targets]
    if not len(rows_R):
        return [{term: student.logits_BK.new_zeros(()) for term in method.weights(batch.epoch)} for _ in targets]
    student, batch = student.rows(rows_R), batch.rows(rows_R)  # one batch for all targets, see `forward`
    return [method.terms(student, target.target.rows(rows_R), batch) for target in targets]


def targets_of(
    method: Method, student: Signals, teacher: Signals | None, teaching: Teaching | None, strong: Teaching | None
) -> Sequence[WeightedTarget]:
    """What a method is given: the views' targets of its kind, the plain teacher, or the student's own output."""
    if method.consumes == "self":
        return (WeightedTarget(1.0, Target.of(student.detach())),)
    assert teacher is not None and teaching is not None, "a method that needs a teacher is refused without one"
    if method.consumes == "stages":
        return (WeightedTarget(1.0, Target.of(teacher)),)
    targets = _of_kind(teaching, method)
    if method.needs_maps():
        targets = [WeightedTarget(target.weight, target.target.with_maps(teacher)) for target in targets]
    if strong is not None and "strong" in method.needs:
        pairs = zip(targets, _of_kind(strong, method), strict=True)
        targets = [WeightedTarget(weak.weight, replace(weak.target, strong=other.target)) for weak, other in pairs]
    return targets


def _of_kind(teaching: Teaching, method: Method) -> Sequence[WeightedTarget]:
    return teaching.logit_targets if method.consumes == "logits" else teaching.pooled_targets


def weighted_sum(terms: Terms, weights: Mapping[str, float]) -> Tensor | None:
    """Sum of weight times term over all terms, None without terms; every term must have a weight."""
    return dot([weights[name] for name in terms], list(terms.values())) if terms else None


def dot(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """Sum of weight times scalar, in two operations however many there are."""
    stacked = torch.stack(tuple(values))
    return stacked @ _weights(tuple(weights), stacked.dtype, stacked.device)


@lru_cache(maxsize=256)
def _weights(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept, as numbers that go to a GPU anew make the next step wait for the last one."""
    return torch.tensor(weights, dtype=dtype, device=device)
