"""What networks say about a batch, and what a student is asked to imitate.

Shapes: B batch, V views, M members (teacher and views), J answers, K classes, C feature width, H, W map size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from typing_extensions import Self

Inputs: TypeAlias = Any
"""A batch of what a network is asked about: of images float32 [B, C, H, W]. What carries it does not look inside."""


Takes = Literal["images", "tokens", "nodes"]
"""What networks, data sets and tasks are made for: only those of one kind go together."""

Answer = Literal["step", "branch"]
ANSWERS = get_args(Answer)
"""What several answers of one network are of."""


@dataclass(frozen=True)
class Tokens:
    """Windows of text.

    Attributes:
        ids_BL: token numbers, int64 [B, L].
        rows_BL: where the token that comes next is predicted and counted, bool [B, L]. A network answers these R
            places alone, window by window; its logits are [R, vocabulary].
    """

    ids_BL: Tensor
    rows_BL: Tensor

    def __len__(self) -> int:
        return len(self.ids_BL)


@dataclass(frozen=True)
class Nodes:
    """A graph, and some of its nodes.

    Attributes:
        features_NF: of every node, float32 [N, F].
        edges_2E: from and to, int64 [2, E]; an undirected edge stands in both directions.
        rows_R: the nodes that a network is asked about, int64; its logits are [R, classes].
    """

    features_NF: Tensor
    edges_2E: Tensor
    rows_R: Tensor

    def __len__(self) -> int:
        return len(self.rows_R)


@dataclass(frozen=True)
class TokenSpec:
    """What a network of tokens is built for: how many there are, and the length of a window."""

    vocabulary: int
    length: int
    takes: ClassVar[Takes] = "tokens"

    @property
    def num_classes(self) -> int:
        """The token that comes next is what is predicted."""
        return self.vocabulary

    def example(self, rows: int) -> Inputs:
        """So many windows of the first token, every place of which is asked about."""
        ids_BL = torch.zeros(rows, self.length, dtype=torch.int64)
        return Tokens(ids_BL, torch.ones_like(ids_BL, dtype=torch.bool))


@dataclass(frozen=True)
class NodeSpec:
    """What a network of nodes is built for: width of a node's features, number of classes."""

    features: int
    num_classes: int
    takes: ClassVar[Takes] = "nodes"

    def example(self, rows: int) -> Inputs:
        """A ring of so many empty nodes, all of which are asked about."""
        nodes = torch.arange(rows)
        ring_2E = torch.stack([nodes, nodes.roll(-1)])
        both_2E = torch.cat([ring_2E, ring_2E.flip(0)], dim=1)
        return Nodes(torch.zeros(rows, self.features), both_2E, nodes)


@dataclass(frozen=True)
class InputSpec:
    """What a network of images is built for: channels, height = width in pixels, number of classes."""

    takes: ClassVar[Takes] = "images"
    channels: int
    size: int
    num_classes: int

    def example(self, rows: int) -> Inputs:
        """So many empty inputs, to try a network with."""
        return torch.zeros(rows, self.channels, self.size, self.size)


Spec: TypeAlias = InputSpec | TokenSpec | NodeSpec
"""What a network is built for."""

Terms: TypeAlias = dict[str, Tensor]
"""Unweighted named loss terms, each a scalar."""

SMALL_STAGES = ((16, 32, 32), (32, 16, 16), (64, 8, 8))
"""(C, H, W) of each stage map of a small network, stem first: what a component alone is built for by default."""

UNLABELLED = -100
"""The label of a row that has none."""

STANDARD_EPSILON = 1e-7
"""Added to the standard deviation of logits, as published."""


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits over a temperature; the logits themselves at temperature 1, the most frequent one."""
    return logits if temperature == 1 else logits / temperature


def standardized(logits: Tensor) -> Tensor:
    """Logits with mean 0 and (unbiased) standard deviation 1 over the classes (Sun et al., CVPR 2024, 2403.01427)."""
    return (logits - logits.mean(dim=-1, keepdim=True)) / (STANDARD_EPSILON + logits.std(dim=-1, keepdim=True))


def labelled_cross_entropy(logits_BK: Tensor, labels_B: Tensor, some_unlabelled: bool) -> Tensor:
    """Mean cross-entropy of the rows that have a label, a scalar in nats; 0 with a gradient of 0 where none has one.

    Args:
        logits_BK: class scores.
        labels_B: int64, UNLABELLED where there is none.
        some_unlabelled: whether there may be such rows.
    """
    if not some_unlabelled:
        return torch.nn.functional.cross_entropy(logits_BK, labels_B)
    summed = torch.nn.functional.cross_entropy(logits_BK, labels_B, reduction="sum", ignore_index=UNLABELLED)
    return summed / (labels_B != UNLABELLED).sum().clamp_min(1)


@dataclass(frozen=True)
class Signals:
    """What a network says about a batch.

    Attributes:
        logits_BK: class scores before any softmax.
        pooled_BC: pooled (penultimate) feature.
        stages: stage maps, stem first, each [B, C, H, W], after their ReLU where the family has one there (the raw sums
            of wrn and the linear bottlenecks of MobileNets have none, as published); None unless asked for.
        preact_stages: the same maps before their ReLU, where the network has them; None unless asked for.
        last_map: the map whose spatial mean is `pooled_BC`, where the network has one; None unless asked for.
        classifier: weight [K, C] and bias [K] of the last layer, with a gradient for a student; None unless maps
            were asked for.
        strong: the same images under the strong augmentation; None unless a method asked for them.
        others: what further teachers say about the batch, in the order of `teacher.others`; empty for a student.
        taken: of some rows of a batch: the pooled feature of the whole batch, which the logits come from, and the
            places of these rows in it.
        answers_BJK: logits of each answer of a network that gives several, in order; None for one that gives one.
        answer: what each answer is of. `step`: a time step; the logits are their mean, and the first ones alone are
            what the network says where it stops early. `branch`: an exit of the network; the last is its own, the
            logits.
    """

    logits_BK: Tensor
    pooled_BC: Tensor
    stages: tuple[Tensor, ...] | None = None
    preact_stages: tuple[Tensor, ...] | None = None
    last_map: Tensor | None = None
    classifier: tuple[Tensor, Tensor] | None = None
    strong: Signals | None = None
    others: tuple[Signals, ...] = ()
    taken: tuple[Tensor, Tensor] | None = None
    answers_BJK: Tensor | None = None
    answer: Answer = "step"

    @classmethod
    def of(cls, logits_BK: Tensor, pooled_BC: Tensor | None = None, **attributes: Any) -> Signals:
        """Signals out of a notebook's own tensors.

        Args:
            logits_BK: class scores.
            pooled_BC: pooled feature; without it one of width 0, for methods that read logits alone.
            attributes: further ones by keyword, e.g. `stages=[maps_BCHW, ...]`; a list becomes a tuple.
        """
        pooled_BC = logits_BK.new_empty(len(logits_BK), 0) if pooled_BC is None else pooled_BC
        for name, value in attributes.items():
            attributes[name] = tuple(value) if isinstance(value, list) else value
        return cls(logits_BK, pooled_BC, **attributes)

    @classmethod
    def random(
        cls,
        size: int,
        num_classes: int = 10,
        stages: Sequence[tuple[int, int, int]] = SMALL_STAGES,
        strong: bool = False,
    ) -> Signals:
        """Everything that a network may say about a batch, out of torch's global generator, to try a component with.

        The last map is the last stage's, the pooled feature its mean, and the logits are its classifier's. There are
        three answers, of time steps, whose mean the logits are.

        Args:
            size: B.
            num_classes: K.
            stages: shapes of the stage maps, stem first.
            strong: whether to add signals of the strongly augmented images.
        """
        preact = tuple(torch.randn(size, *shape) for shape in stages)
        maps = tuple(map_BCHW.relu() for map_BCHW in preact)
        pooled_BC = maps[-1].mean(dim=(2, 3))
        weight_KC, bias_K = torch.randn(num_classes, pooled_BC.shape[1]), torch.zeros(num_classes)
        logits_BK = torch.nn.functional.linear(pooled_BC, weight_KC, bias_K)
        again = cls.random(size, num_classes, stages) if strong else None
        of_steps_BJK = torch.randn(size, 3, num_classes)
        answers_BJK = logits_BK[:, None] + of_steps_BJK - of_steps_BJK.mean(dim=1, keepdim=True)
        last = maps[-1], (weight_KC, bias_K)
        return cls(logits_BK, pooled_BC, maps, preact, *last, again, answers_BJK=answers_BJK)

    def detach(self) -> Signals:
        """The same numbers without a gradient."""
        return Signals(
            self.logits_BK.detach(),
            self.pooled_BC.detach(),
            _detached(self.stages),
            _detached(self.preact_stages),
            None if self.last_map is None else self.last_map.detach(),
            None if self.classifier is None else (self.classifier[0].detach(), self.classifier[1].detach()),
            None if self.strong is None else self.strong.detach(),
            tuple(other.detach() for other in self.others),
            answers_BJK=None if self.answers_BJK is None else self.answers_BJK.detach(),
            answer=self.answer,
        )

    def rows(self, rows_B: Tensor) -> Signals:
        """What is said about some rows of the batch, in their order; `rows_B` are whole numbers."""
        return replace(
            self,
            logits_BK=self.logits_BK[rows_B],
            pooled_BC=self.pooled_BC[rows_B],
            stages=_rows(self.stages, rows_B),
            preact_stages=_rows(self.preact_stages, rows_B),
            last_map=None if self.last_map is None else self.last_map[rows_B],
            strong=None if self.strong is None else self.strong.rows(rows_B),
            others=tuple(other.rows(rows_B) for other in self.others),
            taken=(self.pooled_BC, rows_B) if self.taken is None else (self.taken[0], self.taken[1][rows_B]),
            answers_BJK=None if self.answers_BJK is None else self.answers_BJK[rows_B],
        )

    def pooled_gradient(self, loss: Tensor) -> Tensor | None:
        """Gradient of a loss of the logits to the pooled feature, [B, C]; None where they do not come from it."""
        pooled_BC, rows_R = (self.pooled_BC, None) if self.taken is None else self.taken
        if not (loss.requires_grad and pooled_BC.requires_grad):
            return None
        gradient_BC = torch.autograd.grad(loss, pooled_BC, retain_graph=True, allow_unused=True)[0]
        return gradient_BC if rows_R is None or gradient_BC is None else gradient_BC[rows_R]

    def in_float32(self) -> Signals:
        """What a network said under autocast, in the precision of losses and heads."""
        return replace(
            self,
            logits_BK=self.logits_BK.float(),
            pooled_BC=self.pooled_BC.float(),
            stages=_in_float32(self.stages),
            preact_stages=_in_float32(self.preact_stages),
            last_map=None if self.last_map is None else self.last_map.float(),
            answers_BJK=None if self.answers_BJK is None else self.answers_BJK.float(),
        )


def _rows(maps: tuple[Tensor, ...] | None, rows_B: Tensor) -> tuple[Tensor, ...] | None:
    return None if maps is None else tuple(stage[rows_B] for stage in maps)


def _in_float32(maps: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
    return None if maps is None else tuple(stage.float() for stage in maps)


def _detached(maps: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
    return None if maps is None else tuple(map_BCHW.detach() for map_BCHW in maps)


@dataclass(frozen=True)
class Batch:
    """One training batch besides its images.

    Attributes:
        labels_B: the labels this trial trains on (with label noise, if any), int64; UNLABELLED where a row has none.
        sample_ids_B: index of each image in the whole stored training split, stable across subsets.
        positions_B: row of each image in this trial's training subset (memory banks are indexed by it).
        epoch: student epoch, counted from 1; warm-up epochs of view heads count from 1 on their own.
        generator: source of every random draw of whom the batch is given to; on the device of the batch.
        partner_labels_B: labels of the images that Mixup or CutMix mixed in; None without mixing. Methods that read
            labels then see those of the image with the larger share.
        share: how much of each image is its own, between 0.5 and 1 (1 without mixing).
        repeated: how many leading rows are the images (in the same crops) of the previous batch's last rows; 0 unless
            a method asked for overlapping batches, and in the first batch of an epoch.
        streams: the generators of those who have one of their own, by name; empty where all draw from `generator`.
        labelled_B: which rows have a label, bool; None: all. A mixed image has one where both of its images do.
            Methods that read labels are given these rows only, and the student's cross-entropy counts no other.
        untaught_B: labelled rows whose label no teacher was told, bool; None: teachers were told all. What a teacher
            is worth shows on these alone.
        right_labels_B: the right label of every row, for views that say that they read them; None for all others.
    """

    labels_B: Tensor
    sample_ids_B: Tensor
    positions_B: Tensor
    epoch: int
    generator: torch.Generator
    partner_labels_B: Tensor | None = None
    share: float = 1.0
    repeated: int = 0
    streams: tuple[tuple[str, torch.Generator], ...] = ()
    labelled_B: Tensor | None = None
    untaught_B: Tensor | None = None
    right_labels_B: Tensor | None = None

    @property
    def generators(self) -> Sequence[torch.Generator]:
        """Everything that draws for this batch, each once."""
        return list(dict.fromkeys((self.generator, *(generator for _, generator in self.streams))))

    def given_to(self, name: str) -> Self:
        """The same batch with the generator of this name, so that nobody's draws depend on what others drew."""
        return replace(self, generator=dict(self.streams)[name]) if self.streams else self

    def rows(self, rows_B: Tensor) -> Self:
        """Some rows of the batch; `rows_B` are ascending whole numbers, so that repeated rows go on leading."""
        return replace(
            self,
            labels_B=self.labels_B[rows_B],
            sample_ids_B=self.sample_ids_B[rows_B],
            positions_B=self.positions_B[rows_B],
            partner_labels_B=None if self.partner_labels_B is None else self.partner_labels_B[rows_B],
            repeated=int((rows_B < self.repeated).sum()) if self.repeated else 0,
            labelled_B=None if self.labelled_B is None else self.labelled_B[rows_B],
            untaught_B=None if self.untaught_B is None else self.untaught_B[rows_B],
            right_labels_B=None if self.right_labels_B is None else self.right_labels_B[rows_B],
        )

    @classmethod
    def of(cls, labels_B: Tensor, epoch: int = 1, seed: int = 0, **attributes: Any) -> Batch:
        """The first images of a training set, in order, with a fresh generator: a batch for a notebook.

        Args:
            labels_B: the labels, int64, UNLABELLED where a row has none.
            epoch: student epoch, counted from 1.
            seed: of the generator.
            attributes: further ones by keyword, or in place of the first images `positions_B` and `sample_ids_B`.
        """
        first_B = torch.arange(len(labels_B), device=labels_B.device)
        generator = torch.Generator(labels_B.device).manual_seed(seed)
        own = {"labels_B": labels_B, "sample_ids_B": first_B, "positions_B": first_B, "epoch": epoch}
        labelled_B = labelled_rows(labels_B)
        return cls(**{**own, "generator": generator, "labelled_B": labelled_B, **attributes})


def labelled_rows(labels_B: Tensor) -> Tensor | None:
    """Which labels are known, bool; None: all."""
    known_B = labels_B != UNLABELLED
    return None if bool(known_B.all()) else known_B


@dataclass(frozen=True)
class Views:
    """Augmented versions of one teacher's knowledge: view logits [B, V, K] and view features [B, V, C]."""

    logits_BVK: Tensor
    pooled_BVC: Tensor

    def detach(self) -> Views:
        """The same numbers without a gradient."""
        return Views(self.logits_BVK.detach(), self.pooled_BVC.detach())

    @property
    def num_views(self) -> int:
        """V; 0 for a plain teacher."""
        return self.logits_BVK.shape[1]


@dataclass(frozen=True)
class Target:
    """What the student is asked to imitate: a weighted mixture of M members' probabilities and features.

    Attributes:
        logits_BMK: logits of each member.
        pooled_BMC: pooled feature of each member.
        weights_M: mixture weights, [M], or [B, M] where each image has its own. They sum to 1 in a proper mixture; the
            `released` ensemble of Angular-KD does not normalise them, so its "probabilities" sum to more than 1.
        temperature: softmax temperature of the members; None = the temperature the method asks for.
        stages, preact_stages, last_map: the plain teacher's maps where a method asked for them; views never change
            maps, so the objective fills them in.
        strong: the target for the strongly augmented images, where a method asked for them; filled in by the
            objective.
        place: which of several targets of a sum it is, where each is of another kind (`MethodContext.pooled_dims`).
    """

    logits_BMK: Tensor
    pooled_BMC: Tensor
    weights_M: Tensor
    temperature: float | None = None
    stages: tuple[Tensor, ...] | None = None
    preact_stages: tuple[Tensor, ...] | None = None
    last_map: Tensor | None = None
    strong: Target | None = None
    place: int = 0

    @classmethod
    def of(cls, signals: Signals, strong: bool = False) -> Target:
        """The plain teacher (or any single network) as a target; with `strong` for strongly augmented images, too."""
        plain = cls(signals.logits_BK.unsqueeze(1), signals.pooled_BC.unsqueeze(1), signals.logits_BK.new_ones(1))
        again = cls.of(signals.strong) if strong and signals.strong is not None else None
        return replace(plain.with_maps(signals), strong=again)

    def with_maps(self, signals: Signals) -> Target:
        """The same target with a network's maps."""
        return replace(self, stages=signals.stages, preact_stages=signals.preact_stages, last_map=signals.last_map)

    def rows(self, rows_B: Tensor) -> Target:
        """The target of some rows of the batch, in their order; `rows_B` are whole numbers."""
        return replace(
            self,
            logits_BMK=self.logits_BMK[rows_B],
            pooled_BMC=self.pooled_BMC[rows_B],
            weights_M=self.weights_M[rows_B] if self.weights_M.ndim == 2 else self.weights_M,
            stages=_rows(self.stages, rows_B),
            preact_stages=_rows(self.preact_stages, rows_B),
            last_map=None if self.last_map is None else self.last_map[rows_B],
            strong=None if self.strong is None else self.strong.rows(rows_B),
        )

    def log_probabilities_BK(self, temperature: float, standardize: bool = False) -> Tensor:
        """Log of the mixture of the members' tempered probabilities, [B, K]; exact for one member.

        Args:
            temperature: of the softmax, unless the target has its own.
            standardize: scale each member's logits to mean 0 and standard deviation 1 first.
        """
        at = temperature if self.temperature is None else self.temperature
        logits_BMK = standardized(self.logits_BMK) if standardize else self.logits_BMK
        log_members_BMK = torch.log_softmax(tempered(logits_BMK, at), dim=-1)
        return torch.logsumexp(log_members_BMK + self.weights_M.log()[..., None], dim=1)

    def divided(self, temperature: Tensor, standardize: bool = False) -> Target:
        """The same target with its logits over a temperature that receives a gradient; one with its own keeps it."""
        logits_BMK = standardized(self.logits_BMK) if standardize else self.logits_BMK
        return self if self.temperature is not None else replace(self, logits_BMK=logits_BMK / temperature)

    def probabilities_BK(self, temperature: float) -> Tensor:
        """The mixture of the members' tempered probabilities, [B, K]."""
        return self.log_probabilities_BK(temperature).exp()

    @property
    def pooled_BC(self) -> Tensor:
        """The mixture of the members' features, [B, C]."""
        if self.weights_M.ndim == 2:
            return torch.einsum("bm,bmc->bc", self.weights_M, self.pooled_BMC)
        return torch.einsum("m,bmc->bc", self.weights_M, self.pooled_BMC)

    def detach(self) -> Target:
        """The same target without a gradient to the views."""
        return replace(self, logits_BMK=self.logits_BMK.detach(), pooled_BMC=self.pooled_BMC.detach())


@dataclass(frozen=True)
class WeightedTarget:
    """A target and its weight in a sum over targets (one entry of weight 1 for an ensemble)."""

    weight: float
    target: Target


@dataclass(frozen=True)
class Teaching:
    """What a view augmenter offers to the objective for one batch.

    Attributes:
        logit_targets: targets of methods that consume logits; their terms are summed with the given weights.
        pooled_targets: targets of methods that consume the pooled feature; empty where the views have none.
        penalties: unweighted losses of the view heads; empty for views without parameters.
        gates: share of this batch whose diversity gate is open, keys `feature` and `logit`; empty without gates.
    """

    logit_targets: Sequence[WeightedTarget]
    pooled_targets: Sequence[WeightedTarget]
    penalties: Terms
    gates: Terms = field(default_factory=dict)
