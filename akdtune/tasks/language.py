"""Text that is continued: a small model that drafts for a large one, judged by how often its tokens are accepted.

Shapes: R rows (tokens that are predicted), K tokens known, B windows, L tokens of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from typing_extensions import override

from akdtune.columns import Column
from akdtune.data.row_sets import RowSplit
from akdtune.data.windows import LONGEST
from akdtune.metric import Metric
from akdtune.randomness import derived_seed
from akdtune.registry import ComponentSettings, lookup, register, typed
from akdtune.settings.data import data_settings
from akdtune.settings.domains import Issue
from akdtune.signals import Inputs, Signals, Takes, Tokens
from akdtune.training.measures import TransferMeter
from akdtune.training.task import Meter, Task

NAME = "language"

VIEWS_MIB = 1024
"""Views' versions of a batch's logits take at most so much; what is made of them takes some times that."""

RKD_ROWS = 256
"""Tokens of a batch that triples are made of at most: 1,024 take 20 s a step on a CPU."""

KEPT_SPLITS = 2
"""What the target wrote is kept by a process for so many splits, the newest."""

_WRITTEN: dict[tuple[str, int], Tokens] = {}

SAMPLED = "acceptance where contexts are drawn from the target: every token that is a row is what the target said"


@register(NAME)
class LanguageTask(Task):
    """A student that drafts for its teacher, the target: judged by its acceptance rate on held-out contexts.

    Speculative sampling takes a drafted token with probability min(1, P/Q), so that on average over the draft
    sum_v min(P(v), Q(v)) of them are accepted in a context, with P the target's and Q the student's distribution of
    the next token. `acceptance` is 100 times its mean over all rows, at temperature 1.

    Differs: contexts are those of the data (a mean over held-out text); the rate that a decoder sees has contexts that
        the target wrote, which `sampled_acceptance` measures.
    """

    source = "Leviathan et al., Fast Inference from Transformers via Speculative Decoding, ICML 2023, arXiv 2211.17192"
    metric = Metric("acceptance")
    takes: ClassVar[Takes] = "tokens"
    called = "tokens"
    in_parts = True
    needs_teacher = True
    further = (
        Column("accuracy", "percent", "held-out tokens to which the student gives the largest probability"),
        Column("nll", "nats", "mean negative log-likelihood of held-out tokens under the student"),
        Column("teacher_accuracy", "percent", "the same share for the target", teacher="judged"),
        Column("teacher_nll", "nats", "mean negative log-likelihood of held-out tokens under the target",
               teacher="judged"),
        Column("block_efficiency", "tokens", "(1 - a^(gamma + 1)) / (1 - a) with a the acceptance as a share: tokens a"
               " run of the target, as if each token were accepted independently of the others", teacher="needed",
               section="student"),
        Column("sampled_acceptance", "percent", SAMPLED, teacher="needed", section="student"),
        Column("agreement", "percent", "held-out tokens on which student and target agree", teacher="needed",
               section="student"),
        Column("js_divergence", "nats", "mean Jensen-Shannon divergence of student and target on held-out tokens, at"
               " most log 2", teacher="needed", section="student"),
        Column("right_agree", "percent", "held-out tokens that the target predicts rightly, and the student like it",
               teacher="judged", section="student"),
        Column("right_differ", "percent", "held-out tokens that the target predicts rightly, and the student otherwise",
               teacher="judged", section="student"),
        Column("wrong_agree", "percent", "held-out tokens that the target predicts wrongly, and the student like it",
               teacher="judged", section="student"),
        Column("wrong_differ", "percent", "held-out tokens that the target predicts wrongly, and the student otherwise",
               teacher="judged", section="student"),
    )  # fmt: skip

    class Settings(ComponentSettings):
        """How drafts are judged."""

        gamma: PositiveInt = Field(4, le=1000, description="tokens drafted at a time, for block_efficiency")
        sampled_windows: NonNegativeInt = Field(
            32, description="windows that the target continues for sampled_acceptance, in the last epoch; 0: none"
        )

    settings: LanguageTask.Settings

    @classmethod
    @override
    def misfits(cls, settings: Mapping[str, Any], study: Mapping[str, Any]) -> Iterator[Issue]:
        """Views and methods that a batch of so many tokens would be too large for."""
        data = study.get("data")
        if data is None or "batch_size" not in settings.get("training", {}):
            return
        source = lookup("data", data["name"])
        if source.takes != cls.takes:
            return  # which is said of the data set
        spec = source.spec(data_settings(data))
        rows = settings["training"]["batch_size"] * spec.length
        of_views = settings["views"]
        made, setting = lookup("views", of_views["name"]).logits_made(typed("views", of_views))
        mib = made * rows * spec.vocabulary * 4 / 2**20
        if mib > VIEWS_MIB:
            yield (
                ("views",),
                f"'{of_views['name']}' makes {made} versions of the logits of {rows:,} tokens, each over "
                f"{spec.vocabulary:,}: {mib:,.0f} MiB a step (allowed with the task '{NAME}': {VIEWS_MIB:,}); lower "
                f"{setting}, training.batch_size or data.window",
            )
        given = settings.get("selection") or {}
        share = float(given.get("share", 1)) if given.get("name", "none") != "none" else 1.0
        for term in settings["method"]:
            if term["name"] == "rkd" and (left := round(share * rows)) > RKD_ROWS:
                yield (
                    ("method",),
                    f"'rkd' compares all triples of a batch, and the task '{NAME}' has {left:,} tokens in one "
                    f"(allowed: {RKD_ROWS}); lower training.batch_size, now {rows // spec.length}, or data.window, now "
                    f"{spec.length}",
                )

    @override
    def meter(self) -> Meter:
        return Acceptances(self.settings.gamma)

    @override
    def values(self, student: Signals, teacher: Callable[[], Signals | None], labels_R: Tensor) -> Tensor | None:
        of_target = teacher()
        assert of_target is not None, "a study of this task without a teacher is refused"
        return acceptance_R(student.logits_BK, of_target.logits_BK)

    @override
    def groups(self, sample_ids_R: Tensor) -> Tensor:
        """The windows: tokens of one are not independent."""
        return sample_ids_R // LONGEST

    @override
    @torch.no_grad()
    def last_measures(
        self,
        student: Callable[[Inputs], Signals],
        teacher: Callable[[Inputs], Signals] | None,
        split: RowSplit,
        key: str,
    ) -> dict[str, float | None]:
        """`sampled_acceptance`: on the first windows, continued by the target; the same for all of its students."""
        wanted = self.settings.sampled_windows
        if not wanted or teacher is None:
            return {}
        written = _WRITTEN.get((key, wanted)) if key else None
        if written is None:
            _, inputs = split.sample(wanted)
            generator = torch.Generator(inputs.ids_BL.device).manual_seed(derived_seed("written by the target"))
            written = continued(teacher, inputs, generator)
            if key:
                _WRITTEN[key, wanted] = written
                for old in list(_WRITTEN)[:-KEPT_SPLITS]:
                    del _WRITTEN[old]
        total, rows = 0.0, 0
        for row in range(len(written)):  # a window at a time: logits of all would be large
            one = Tokens(written.ids_BL[row : row + 1], written.rows_BL[row : row + 1])
            accepted_R = acceptance_R(student(one).logits_BK, teacher(one).logits_BK)
            total, rows = total + float(accepted_R.double().sum()), rows + len(accepted_R)
        return {"sampled_acceptance": total / rows}


class Acceptances:
    """Acceptance of a student's tokens by the target, and how likely and how alike both are."""

    def __init__(self, gamma: int) -> None:
        self._gamma = gamma
        self._rows = 0
        self._sums = torch.zeros(5, dtype=torch.float64)
        self._transfer = TransferMeter()

    def update(self, student: Signals, teacher: Signals | None, labels_R: Tensor) -> None:
        """Takes a part up."""
        assert teacher is not None, "a study of this task without a teacher is refused"
        self._rows += len(labels_R)
        sums = [acceptance_R(student.logits_BK, teacher.logits_BK).double().sum()]
        for logits_RK in (student.logits_BK, teacher.logits_BK):
            sums.append(100 * (logits_RK.argmax(dim=1) == labels_R).sum().double())
            sums.append(torch.nn.functional.cross_entropy(logits_RK, labels_R, reduction="none").double().sum())
        self._sums += torch.stack(sums).cpu()
        self._transfer.update(student.logits_BK, teacher.logits_BK, labels_R)

    def result(self) -> dict[str, float | None]:
        """Means over all rows."""
        names = "acceptance", "accuracy", "nll", "teacher_accuracy", "teacher_nll"
        means = dict(zip(names, (self._sums / self._rows).tolist(), strict=True))
        efficiency = block_efficiency(means["acceptance"] / 100, self._gamma)
        return {**means, "block_efficiency": efficiency, **self._transfer.result()}


def acceptance_R(student_logits_RK: Tensor, target_logits_RK: Tensor) -> Tensor:
    """100 sum_v min(P, Q) of each row, as 100 (1 - sum_v |P - Q| / 2), which is the same for what sums to 1.

    So the target accepts all of its own tokens: its value is 100 to the last bit, whatever its probabilities sum to.
    """
    target_RK, student_RK = torch.softmax(target_logits_RK, dim=-1), torch.softmax(student_logits_RK, dim=-1)
    return (100 - 50 * (target_RK - student_RK).abs().sum(dim=-1)).clamp(min=0)


def block_efficiency(acceptance: float, gamma: int) -> float:
    """Tokens that a run of the target gives on average: 1 + a + ... + a^gamma = (1 - a^(gamma + 1)) / (1 - a).

    Args:
        acceptance: share of drafted tokens that are accepted, 0 to 1, each independently of the others.
        gamma: tokens drafted at a time.

    References:
        Leviathan et al., ICML 2023, arXiv 2211.17192, eq. 1, whose assumption it is that acceptances are independent
        and alike; they are neither, so that a decoder measures somewhat another number.
    """
    return sum(acceptance**power for power in range(gamma + 1))


@torch.no_grad()
def continued(target: Callable[[Inputs], Signals], inputs: Tokens, generator: torch.Generator) -> Tokens:
    """Windows in which every token that is a row is drawn from the target, given all before it; the others stay.

    Args:
        target: what answers.
        inputs: the windows; of a text, only the first token of each stays.
        generator: of the draws, one for each window and place.
    """
    ids_BL, rows_BL = inputs.ids_BL.clone(), inputs.rows_BL
    for place in range(ids_BL.shape[1] - 1):
        drawn_B = torch.rand(len(ids_BL), generator=generator, device=ids_BL.device, dtype=torch.float64)
        asked_B = rows_BL[:, place]
        if not bool(asked_B.any()):
            continue
        last_BL = torch.zeros_like(rows_BL[asked_B, : place + 1])
        last_BL[:, -1] = True
        logits_RK = target(Tokens(ids_BL[asked_B, : place + 1], last_BL)).logits_BK
        summed_RK = torch.softmax(logits_RK.double(), dim=-1).cumsum(dim=-1)
        drawn_R1 = (drawn_B[asked_B] * summed_RK[:, -1])[:, None]
        token_R1 = torch.searchsorted(summed_RK, drawn_R1, right=True)
        ids_BL[asked_B, place + 1] = token_R1.squeeze(1).clamp(max=summed_RK.shape[1] - 1)
    return Tokens(ids_BL, rows_BL)
