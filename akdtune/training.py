"""One trial, start to end: warm up the view heads, train the student, measure every epoch. Knows no Ray.

`Trial.run` is a generator of epochs. Everything random is drawn from (seed, epoch), never from what was drawn before,
so a trial that goes on from the state of any finished epoch computes the numbers of one that was never interrupted.

Shapes: N training images, B batch, M members (teacher and views), K classes, C feature width.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from akdtune import data, networks, teacher
from akdtune.diversity import DiversityMeter
from akdtune.methods import Method, MethodContext
from akdtune.objective import Objective, weighted_sum
from akdtune.recipe import Recipe, derived_seed, set_learning_rate, sgd
from akdtune.registry import ComponentSettings, load_plugins, lookup
from akdtune.results import REPORT_ROLES
from akdtune.signals import Batch, Signals
from akdtune.transfer import TransferMeter
from akdtune.views import ViewAugmenter, ViewContext

SCORE_WINDOW = 3
"""A rung is scored by the mean validation accuracy of this many last epochs."""

EVALUATION_BATCH = 256
STOCHASTIC_DRAWS = 8
"""Fixed draws over which the diversity of stochastic views is averaged."""


class TrainingSettings(Recipe):
    """How the student trains."""

    ce_weight: NonNegativeFloat | None = Field(
        None, description="weight of the student's cross-entropy; null: the base method's published one"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where Ray or torch offers one")


class StudentSettings(ComponentSettings):
    """The network that learns."""

    network: str | dict[str, Any] = Field(description="a registered network, or {name: ..., its settings}")


class Seeds(ComponentSettings):
    """Separate sources of randomness, shared across arms so that differences are paired by seed."""

    init: int = Field(0, description="weights of student, heads and projectors")
    order: int = Field(0, description="batches and augmentation")
    noise: int = Field(0, description="dropout, view noise, drawn negatives")


class Diverged(Exception):
    """A loss that is not finite; `epoch` is the epoch in which it appeared (0: while the heads warmed up)."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the loss is not finite in epoch {epoch}")
        self.epoch = epoch


class Interrupted(Exception):
    """`should_stop` said so; the state of the last epoch that was yielded is where to go on from."""


@dataclass(frozen=True)
class TrialConfig:
    """What determines a trial's numbers, typed.

    Attributes:
        role: search | probe | confirm | ablation | control; decides which data is seen.
        teacher_file: where the frozen teacher lies.
    """

    data: data.DataSettings
    student: StudentSettings
    views: tuple[str, ComponentSettings]
    methods: tuple[tuple[str, ComponentSettings], ...]
    training: TrainingSettings
    seeds: Seeds
    role: str
    teacher_file: teacher.TeacherFile

    @classmethod
    def parse(cls, trial: Mapping[str, Any]) -> TrialConfig:
        """Types the plain JSON of a trial: `settings`, `seeds`, `role`, `teacher_file`, `plugins`, `plugin_folders`."""
        load_plugins(trial.get("plugins", ()), trial.get("plugin_folders", ()))
        settings = trial["settings"]
        return cls(
            data=data.DataSettings(**settings["data"]),
            student=StudentSettings(**settings["student"]),
            views=_component("views", settings["views"]),
            methods=tuple(_component("methods", method) for method in settings["method"]),
            training=TrainingSettings(**settings["training"]),
            seeds=Seeds(**trial["seeds"]),
            role=trial["role"],
            teacher_file=teacher.TeacherFile(**trial["teacher_file"]),
        )

    @property
    def train_on(self) -> Literal["subset", "full"]:
        """`subset`: the training pool minus validation; `full`: all of it."""
        return "full" if self.role in REPORT_ROLES else "subset"


def _component(kind: Literal["views", "methods"], setting: Mapping[str, Any]) -> tuple[str, ComponentSettings]:
    name = str(setting["name"])
    values = {key: value for key, value in setting.items() if key != "name"}
    return name, lookup(kind, name).Settings(**values)


@dataclass(frozen=True)
class Epoch:
    """One finished epoch.

    Attributes:
        stage: `warmup` (view heads only) or `student`.
        epoch: counted from 1 within its stage.
        row: metrics by column name (accuracies in percent, times in seconds), None where a metric does not apply.
        state: everything needed to go on after this epoch, as a tree of tensors and numbers.
    """

    stage: Literal["warmup", "student"]
    epoch: int
    row: dict[str, float | None]
    state: dict[str, Any]


@dataclass(frozen=True)
class Predictions:
    """Student logits on the images a role is judged by."""

    sample_ids_N: Tensor
    labels_N: Tensor
    logits_NK: Tensor


class _Sums:
    """Running sums of one epoch, kept on the device so that nothing waits for it before the epoch ends."""

    def __init__(self) -> None:
        self.count = 0
        self._names: list[str] = []
        self._sums: Tensor | None = None

    @torch.no_grad()
    def add(self, images: int, values: Mapping[str, Tensor]) -> None:
        """Adds the means of a batch; every batch has the same names."""
        self.count += images
        stacked = torch.stack(list(values.values()))
        if self._sums is None:
            self._names, self._sums = list(values), torch.zeros_like(stacked, dtype=torch.float64)
        self._sums.add_(stacked, alpha=images)

    def means(self) -> dict[str, float]:
        """Means over all images of the epoch."""
        assert self._sums is not None
        return {name: value / self.count for name, value in zip(self._names, self._sums.tolist(), strict=True)}


def resolve_device(setting: str) -> torch.device:
    """`auto` is the first visible GPU, else the CPU."""
    return torch.device("cuda" if setting == "cuda" or (setting == "auto" and torch.cuda.is_available()) else "cpu")


class Trial:
    """The parts of one trial: data, frozen teacher, student, views, methods, optimiser.

    `frozen` replaces the network in the configuration's teacher file, e.g. by an untrained one to time a few steps.
    """

    def __init__(self, config: TrialConfig, frozen: networks.Network | None = None) -> None:
        self.config = config
        self.device = resolve_device(config.training.device)
        self.dataset = data.load(config.data, self.device)
        self.splits = self.dataset.split(config.train_on)
        self.train = self.splits.train
        frozen = frozen or teacher.load(config.teacher_file, self.dataset.inputs, self.device)
        self.objective, self.student = build_parts(config, frozen, self.dataset, self.train.training_labels_N)
        self.teacher = teacher.FrozenTeacher(
            frozen, self.train, self.dataset.augmentation, config.training.epochs + self.views.warmup_epochs
        )
        self.optimizer = sgd([*self.student.parameters(), *self.objective.trained_parameters()], config.training)
        self.warmup_optimizer = sgd(self.views.parameters(), config.training) if self.views.warmup_epochs else None
        self.recent_scores: list[float] = []
        self._judged: tuple[data.Split, Signals] | None = None

    @property
    def views(self) -> ViewAugmenter:
        """The view augmenter."""
        return self.objective.views

    def run(
        self, state: Mapping[str, Any] | None = None, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Epoch]:
        """Trains, yielding each finished epoch: first those of the heads' warm-up, then the student's.

        Args:
            state: the `state` of an epoch to go on after; None starts at the beginning.
            should_stop: asked once per step.

        Raises:
            Interrupted: after `should_stop` returned True.
            Diverged: when a loss is not finite.
        """
        stage, done = ("warmup", 0) if state is None else (state["stage"], state["epoch"])
        if state is not None:
            self.load_state(state)
        if stage == "warmup":
            for epoch in range(done + 1, self.views.warmup_epochs + 1):
                row = self.warmup_epoch(epoch, should_stop)
                yield Epoch("warmup", epoch, row, self.state("warmup", epoch))
            done = 0
        for epoch in range(done + 1, self.config.training.epochs + 1):
            row = self.student_epoch(epoch, should_stop)
            yield Epoch("student", epoch, row, self.state("student", epoch))

    def warmup_epoch(self, epoch: int, should_stop: Callable[[], bool]) -> dict[str, float | None]:
        """Trains the view heads alone for one epoch and returns its row."""
        assert self.warmup_optimizer is not None
        started = time.monotonic()
        rate = self.views.warmup_learning_rate(epoch)
        set_learning_rate(self.warmup_optimizer, rate)
        self.views.train()
        sums = _Sums()
        for batch, teacher_signals, _ in self._batches("warmup", epoch, should_stop):
            terms = self.views.warmup_penalties(teacher_signals, batch)
            total = weighted_sum(terms, self.views.penalty_weights())
            assert total is not None, "views with a warm-up stage have penalties"
            self._step(self.warmup_optimizer, total)
            sums.add(
                len(batch.labels_B), {**{f"loss.views.{name}": value for name, value in terms.items()}, "total": total}
            )
        means = _finite(sums, epoch=0)
        return {"lr": rate, **means, "wall_time_s": time.monotonic() - started}

    def student_epoch(self, epoch: int, should_stop: Callable[[], bool]) -> dict[str, float | None]:
        """Trains student, methods and (where they train jointly) heads for one epoch and returns its row."""
        started = time.monotonic()
        rate = self.config.training.learning_rate(epoch)
        set_learning_rate(self.optimizer, rate)
        self.student.train()
        self.objective.train()
        sums = _Sums()
        stages = self.objective.needs_stages
        for batch, teacher_signals, images_BCHW in self._batches("student", epoch, should_stop):
            assert images_BCHW is not None
            student_signals = self.student(images_BCHW, stages)
            loss = self.objective(student_signals, teacher_signals, batch)
            self._step(self.optimizer, loss.total)
            self.objective.after_step()
            values = {f"loss.{name}": value for name, value in loss.terms.items()}
            values |= {_gate_column("train", name): value for name, value in loss.gates.items()}
            values["train_accuracy"] = percent_right(student_signals.logits_BK, batch.labels_B)
            sums.add(len(batch.labels_B), {**values, "total": loss.total})
        means = _finite(sums, epoch)
        trained_s = time.monotonic() - started
        row: dict[str, float | None] = {"lr": rate, **means, "images_per_s": sums.count / trained_s}
        row |= self.views.measures()
        row |= self._validation_row()
        return row | {"wall_time_s": time.monotonic() - started, "peak_memory_mib": self._peak_memory_mib()}

    def _batches(
        self, stage: str, epoch: int, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Batch, Signals, Tensor | None]]:
        """The batches of one epoch with the teacher's signals, and images where the student or the teacher reads them.

        Order, crops and random draws depend on (seeds, stage, epoch) alone.
        """
        seeds = self.config.seeds
        order_seed = derived_seed("order", seeds.order, stage)
        noise_seed = derived_seed("noise", seeds.noise, stage, epoch)
        torch.manual_seed(noise_seed)
        generator = torch.Generator(self.device).manual_seed(noise_seed)
        ids_N = self.train.sample_ids_N
        positions_N = data.epoch_order(order_seed, epoch, ids_N)
        crops_N = data.crops(order_seed, epoch, ids_N, self.dataset.augmentation)
        stages = stage == "student" and self.objective.needs_stages
        needs_images = stage == "student" or not self.teacher.keeps_table
        for positions_B in torch.split(positions_N, self.config.training.batch_size):
            if should_stop():
                raise Interrupted
            if len(positions_B) < 2:
                continue  # batch statistics of one image do not exist
            crops_B = data.Crops(*(crop_N[positions_B] for crop_N in crops_N))
            images_BCHW = self.train.images(positions_B, crops_B) if needs_images else None
            signals = self.teacher.signals(positions_B, images_BCHW, crops_B, stages)
            labels_B = self.train.training_labels_N[positions_B]
            yield Batch(labels_B, ids_N[positions_B], positions_B, epoch, generator), signals, images_BCHW

    @staticmethod
    def _step(optimizer: torch.optim.Optimizer, total: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def _validation_row(self) -> dict[str, float | None]:
        if self.splits.validation is None:
            return {}
        row = self.measure(self.splits.validation)
        accuracy = row.pop("accuracy")
        assert accuracy is not None
        self.recent_scores = [*self.recent_scores, accuracy][-SCORE_WINDOW:]
        if self.config.teacher_file.saw_validation:  # its numbers there would be those of training images
            row = {name: None if name in TEACHER_COLUMNS else value for name, value in row.items()}
        return {**row, "val_accuracy": accuracy, "score": sum(self.recent_scores) / len(self.recent_scores)}

    @torch.no_grad()
    def measure(self, split: data.Split) -> dict[str, float | None]:
        """Accuracy of the student on plain images, and how teacher, views and student relate there.

        Everything in eval mode. Column `accuracy` is the student's; the rest are the columns of TEACHER_COLUMNS.
        """
        self.student.eval()
        self.objective.eval()
        signals_N = self._teacher_signals(split)
        logits_NK = networks.predict(self.student, split, EVALUATION_BATCH)
        transfer = TransferMeter()
        transfer.update(logits_NK, signals_N.logits_BK, split.labels_N)
        return {
            "accuracy": float(percent_right(logits_NK, split.labels_N)),
            "teacher_accuracy": float(percent_right(signals_N.logits_BK, split.labels_N)),
            **transfer.result(),
            **measure_views(self.views, signals_N, split.labels_N, self.config.seeds.noise),
        }

    def _teacher_signals(self, split: data.Split) -> Signals:
        """The teacher on a whole split of plain images, computed once per trial."""
        if self._judged is None or self._judged[0] is not split:
            self._judged = (split, networks.signals(self.teacher.network, split, EVALUATION_BATCH))
        return self._judged[1]

    @torch.no_grad()
    def close(self) -> tuple[dict[str, float | None], Predictions]:
        """The last reading: the test set for report roles (their only one), the validation set for the others."""
        reads_test = self.config.role in REPORT_ROLES
        split = self.splits.test if reads_test else self.splits.validation
        assert split is not None, "a role that does not read the test set has a validation set"
        row: dict[str, float | None] = {}
        if reads_test:
            row = self.measure(split)
            row["test_accuracy"] = row.pop("accuracy")
        self.student.eval()
        logits_NK = networks.predict(self.student, split, EVALUATION_BATCH)
        return row, Predictions(split.sample_ids_N.cpu(), split.labels_N.cpu(), logits_NK.cpu())

    def timed(self, steps: int) -> dict[str, float]:
        """Seconds of one warm-up step, one student step, and the work at the end of an epoch, by a few real ones.

        Trains on the first batches, so a trial that was timed must not be run.
        """
        times = {"warmup_step_s": 0.0}
        if self.warmup_optimizer is not None:
            times["warmup_step_s"] = _timed_steps(lambda stop: self.warmup_epoch(1, stop), steps)
        times["student_step_s"] = _timed_steps(lambda stop: self.student_epoch(1, stop), steps)
        self._validation_row()
        started = time.monotonic()
        self._validation_row()
        return times | {"epoch_end_s": time.monotonic() - started}

    def state(self, stage: str, epoch: int) -> dict[str, Any]:
        """A copy of everything that changes: networks, heads, banks, optimisers, scores, epoch."""
        warming = self.warmup_optimizer if stage == "warmup" else None
        return {
            "stage": stage,
            "epoch": epoch,
            "student": _copied(self.student.state_dict()),
            "objective": _copied(self.objective.state_dict()),
            "optimizer": _copied(self.optimizer.state_dict()),
            "warmup_optimizer": _copied(warming.state_dict()) if warming else None,
            "recent_scores": list(self.recent_scores),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state that `state` returned."""
        self.student.load_state_dict(state["student"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(_copied(state["optimizer"]))
        if self.warmup_optimizer and state["warmup_optimizer"] is not None:
            self.warmup_optimizer.load_state_dict(_copied(state["warmup_optimizer"]))
        self.recent_scores = list(state["recent_scores"])

    def _peak_memory_mib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _copied(node: Any) -> Any:
    """A deep copy of a tree of plain containers, tensors and numbers."""
    if isinstance(node, Tensor):
        return node.detach().clone()
    if isinstance(node, Mapping):
        return {key: _copied(item) for key, item in node.items()}
    return [_copied(item) for item in node] if isinstance(node, list) else node


def _timed_steps(epoch: Callable[[Callable[[], bool]], object], steps: int) -> float:
    """Median seconds between the steps of an epoch that is stopped after `steps` of them; the first is not counted."""
    marks: list[float] = []

    def should_stop() -> bool:
        marks.append(time.monotonic())
        return len(marks) > steps

    try:
        epoch(should_stop)
        marks.append(time.monotonic())
    except Interrupted:
        pass
    gaps = sorted(after - before for before, after in zip(marks, marks[1:], strict=False))
    return gaps[len(gaps) // 2]


def build_parts(
    config: TrialConfig, frozen: networks.Network, dataset: data.DataSet, train_labels_N: Tensor
) -> tuple[Objective, networks.Network]:
    """The objective (methods and views) and the student, initialised from the trial's init seed alone."""
    device = train_labels_N.device
    student = networks.build(config.student.network, dataset.inputs, derived_seed("student", config.seeds.init)).to(
        device
    )
    view_name, view_settings = config.views
    weight_KC, bias_K = frozen.classifier()
    views: ViewAugmenter = lookup("views", view_name)(
        view_settings,
        ViewContext(
            num_classes=dataset.inputs.num_classes,
            teacher_dim=frozen.pooled_dim,
            teacher_classifier=(weight_KC.detach(), bias_K.detach()),
            device=device,
            generator=torch.Generator().manual_seed(derived_seed("views", config.seeds.init)),
        ),
    )
    methods: dict[str, Method] = {}
    for name, settings in config.methods:
        methods[name] = lookup("methods", name)(
            settings,
            MethodContext(
                num_classes=dataset.inputs.num_classes,
                student_dim=student.pooled_dim,
                teacher_dim=frozen.pooled_dim,
                student_stages=student.stage_shapes,
                teacher_stages=frozen.stage_shapes,
                train_labels_N=train_labels_N,
                device=device,
                generator=torch.Generator().manual_seed(derived_seed("method", name, config.seeds.init)),
            ),
        )
    objective = Objective(methods, views, resolve_ce_weight(config.training, list(methods.values())))
    return objective.to(device), student


def resolve_ce_weight(settings: TrainingSettings, methods: list[Method] | list[type[Method]]) -> float:
    """The set weight, or the largest published one among the methods (0.1 for kd alone, 1 for kd+crd)."""
    return max(method.default_ce_weight for method in methods) if settings.ce_weight is None else settings.ce_weight


TEACHER_COLUMNS = frozenset(
    """teacher_accuracy ensemble_accuracy target_accuracy target_entropy diversity_sq_prob diversity_sq_logit
    diversity_sq_feature diversity_ce diversity_pair_prob diversity_pair_logit diversity_pair_feature inter_cosine
    offset_cosine inter_cosine_prob offset_cosine_prob gate_open_eval gate_open_eval_logit""".split()
)
"""Columns that speak of the teacher on held-out images: null where the teacher has trained on them."""


@torch.no_grad()
def measure_views(
    views: ViewAugmenter, teacher_signals: Signals, labels_N: Tensor, noise_seed: int
) -> dict[str, float | None]:
    """Diversity, angles, gates, ensemble and training target of eval-mode views on one split of plain images.

    Stochastic views are averaged over fixed draws. Definitions: akdtune.diversity.
    """
    draws = STOCHASTIC_DRAWS if views.stochastic else 1
    found: list[dict[str, float | None]] = []
    for draw in range(draws):
        generator = torch.Generator(labels_N.device).manual_seed(derived_seed("measure", noise_seed, draw))
        of_views = views.views(teacher_signals, generator)
        meter = DiversityMeter()
        meter.update(
            torch.cat([teacher_signals.logits_BK.unsqueeze(1), of_views.logits_BVK], dim=1),
            torch.cat([teacher_signals.pooled_BC.unsqueeze(1), of_views.pooled_BVC], dim=1),
            labels_N,
        )
        log_target_NK = torch.log_softmax(
            views.evaluation_target(teacher_signals, of_views).log_probabilities_BK(1.0), dim=-1
        )
        row: dict[str, float | None] = dict(meter.result())
        row["target_accuracy"] = float(percent_right(log_target_NK, labels_N))
        row["target_entropy"] = float(-(log_target_NK.exp() * log_target_NK).sum(dim=-1).mean())
        row |= {_gate_column("eval", name): float(v) for name, v in views.gates(teacher_signals, of_views).items()}
        found.append(row)
    return {name: _mean([row[name] for row in found]) for name in found[0]}


def percent_right(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Share of rows whose largest score is the label's, in percent, as a scalar on the device."""
    return (logits_BK.argmax(dim=-1) == labels_B).double().mean() * 100


def _gate_column(mode: str, gate: str) -> str:
    return f"gate_open_{mode}" if gate == "feature" else f"gate_open_{mode}_{gate}"


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _finite(sums: _Sums, epoch: int) -> dict[str, float]:
    """The epoch's means without the total; raises where the total was not finite in any step."""
    means = sums.means()
    total = means.pop("total")
    if not (abs(total) < float("inf")):
        raise Diverged(epoch)
    return means
