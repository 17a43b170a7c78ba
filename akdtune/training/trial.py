"""One trial, start to end: warm up the view heads, train the student, measure every epoch. Knows no Ray.

`Trial.run` is a generator of epochs. Everything random is drawn from (seed, stage, epoch, name of who draws), never
from what was drawn before, so a trial that goes on from the state of any finished epoch computes the numbers of one
that was never interrupted, and trials of one seed draw the same for what they have in common.

Shapes: N training images, B batch, M members (teacher and views), K classes, C feature width.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from akdtune import networks
from akdtune.columns import Column, joined
from akdtune.data.row_sets import Loaded, RowDataSet
from akdtune.data.splits import overlapping
from akdtune.devices import float32_as_set, resolve_device, seed_draws, warn_of_bfloat16
from akdtune.errors import AkdtuneError
from akdtune.randomness import STREAMS, derived_seed
from akdtune.signals import UNLABELLED, Batch, Inputs, Signals, labelled_rows
from akdtune.teacher.find import load_others, load_teacher
from akdtune.teacher.frozen import CACHE_COLUMNS, FrozenTeacher
from akdtune.teacher.rows import Caching
from akdtune.training import graphs
from akdtune.training.config import TrialConfig
from akdtune.training.evaluation import Evaluation, Predictions, held_out_columns
from akdtune.training.graphs import StepInputs
from akdtune.training.limits import TrialLimits
from akdtune.training.loop import Epoch, Interrupted, Sums, TrialLoop, finite_means, peak_memory_mib, timed_steps
from akdtune.training.measures import gate_column, percent_right
from akdtune.training.objective import VIEWS, Loss, Objective, weighted_sum
from akdtune.training.optimizers import Dot, build_optimizer, set_learning_rate, sgd
from akdtune.training.parts import build_parts
from akdtune.training.recording import RECORDED_COLUMNS, Recording
from akdtune.training.row_order import InOtherOrder
from akdtune.training.states import copied, lay_out
from akdtune.training.told import untaught_rows
from akdtune.training.warmup import SharedWarmup
from akdtune.views import ViewAugmenter

TRAINING_COLUMNS = (
    Column("lr", "", "learning rate of the student", "none"),
    Column("train_accuracy", "percent", "mean over the epoch of the student's accuracy on training batches"),
    Column("train_loss", "", "mean over the epoch of the loss that training lowers: all terms, weighted and summed"),
    Column("loss.ce", "nats", "mean over the epoch of the student's cross-entropy with the label, unweighted", "none"),
    Column("loss.*", "", "mean over the epoch of this term of a method, unweighted", "none"),
    Column("loss.views.*", "", "mean over the epoch of this penalty of the views, unweighted", "none", "needed"),
    Column(
        "gate_open_train", "share", "training images whose diversity gate of the features is open", teacher="needed"
    ),
    Column("gate_open_train_*", "share", "training images whose diversity gate of this name is open", teacher="needed"),
    Column("images_per_s", "images/s", "training images per second, evaluation not counted", "mean"),
    Column("wall_time_s", "s", "time of the epoch, evaluation included", "sum"),
    Column("warmup_time_s", "s", "time of the views' warm-up before the first epoch, 0 in the others", "sum"),
    Column("peak_memory_mib", "MiB", "highest memory so far, on the GPU or else of the process", "max"),
)
"""What an epoch of training says besides what is measured on held-out images."""

LABELLED = "labelled"
"""Measured in steps, and in no row: the share of rows that have a label, where there are others."""

TIMED_IMAGES, HURRIED_IMAGES = 256, 32
"""Validation images that the end of an epoch is timed with, where there are more; and where the time is up."""

P = ParamSpec("P")
T = TypeVar("T")


def _as_set(method: Callable[Concatenate[Trial, P], T]) -> Callable[Concatenate[Trial, P], T]:
    """A method of `Trial` that runs with float32 as the trial has it, and leaves the process as it was."""

    @functools.wraps(method)
    def run(trial: Trial, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with float32_as_set(trial.device, trial.config.training.tf32):
            return method(trial, *args, **kwargs)

    return run


class Trial:
    """The parts of one trial: data, frozen teacher, student, views, methods, optimiser.

    `stand_ins` replace the networks in the configuration's teacher file (the main one, then the others), e.g. by
    untrained ones to time a few steps. `dataset` is the trial's data, under any augmentation, where it is loaded on its
    device already.
    `compiler` is the backend of torch.compile; `recorder` records steps, by default as the settings ask.

    Attributes:
        streams: the oldest of the STREAMS that its epochs drew from.
    """

    def __init__(
        self,
        config: TrialConfig,
        stand_ins: Sequence[networks.Network] = (),
        dataset: RowDataSet | None = None,
        *,
        limits: TrialLimits | None = None,
        compiler: str | Callable[..., Any] = "inductor",
        recorder: graphs.Recorder | None = None,
    ) -> None:
        self.config = config
        self.limits = limits or TrialLimits()
        self.streams = STREAMS
        self.device = resolve_device(config.training.device)
        data = config.task.load(config.data, self.device) if dataset is None else dataset
        self.dataset = data.under(config.training.augmentation, "training.augmentation")
        self.splits = self.dataset.split(config.train_on)
        self.train = self.splits.train
        self._labelled_N = labelled_rows(self.train.training_labels_N)
        self._untaught_N = untaught_rows(self.train)
        file, inputs = config.teacher_file, self.dataset.inputs
        frozen, others = (stand_ins[0], tuple(stand_ins[1:])) if stand_ins else (None, ())
        if frozen is None and not file.absent:
            frozen = load_teacher(file, inputs, self.device)
            others = load_others(file, inputs, self.device)
        self.objective, self.student = build_parts(config, frozen, others, self.dataset, self.train.training_labels_N)
        precisions = {"training.precision": config.training.precision, "teacher_cache.compute": config.teacher_compute}
        warn_of_bfloat16(self.device, [key for key, precision in precisions.items() if precision == "bf16"])
        self.layout = networks.layout(self.student)
        self._forward: Callable[[Inputs, bool], Signals] = self.student
        if config.training.compile:
            self._forward = torch.compile(self.student, backend=compiler, dynamic=False)
        if config.seeds.rounding:
            self._forward = self._in_other_order(config.seeds.rounding)
        epochs = config.training.epochs + self.views.warmup_epochs
        self.teacher: FrozenTeacher | None = None
        shared = ""
        if frozen is not None:
            facts = (file.identity, self.dataset.fingerprint(config.train_on), config.train_on, self.device.type)
            shared = "/".join(facts) if file.path else ""
            cache = None if stand_ins else config.teacher_cache
            about = self.dataset.images_key, self.dataset.name
            caching = None if cache is None else Caching(cache, *about, self.limits.cache)
            of_images = self.train, self.dataset.augmentation, epochs
            kept = shared, caching, self.limits.table_mib
            self.teacher = FrozenTeacher(frozen, *of_images, others, *kept, config.teacher_compute)
        of_student = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(config.training, [*of_student, *self.objective.trained_parameters()])
        self.warmup_optimizer = sgd(self.views.parameters(), config.training) if self.views.warmup_epochs else None
        # the same for all epochs: recorded steps know them
        self._streams = tuple((name, torch.Generator(self.device)) for name in self.objective.streams)
        recorder = recorder or graphs.recorder(self.device, config.training.cuda_graphs)
        self._student_graph = self._recordable(self.optimizer, self.objective, recorder)
        self._warmup_graph = None
        if self.warmup_optimizer is not None:
            self._warmup_graph = self._recordable(self.warmup_optimizer, self.views, recorder)
        self.evaluation = Evaluation(
            config, self.splits, self.student, self.objective, self.teacher, shared, self.limits.views_every
        )

    @property
    def views(self) -> ViewAugmenter:
        """The view augmenter, which the objective holds."""
        return self.objective.views

    @property
    def _right_N(self) -> Tensor | None:
        """The right labels, which are for views alone that say that they read them."""
        return self.train.labels_N if self.views.reads_right_labels else None

    @property
    def train_images(self) -> int:
        """How many images an epoch trains on."""
        return len(self.train.labels_N)

    @property
    def steps(self) -> int:
        """How many updates an epoch makes, whole batches counted up."""
        return math.ceil(self.train.items / self.config.training.batch_size)

    @property
    def epochs(self) -> dict[str, int]:
        """How many epochs each stage has."""
        return {"warmup": self.views.warmup_epochs, "student": self.config.training.epochs}

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the rows of its student epochs, and the last reading, hold."""
        held_out = held_out_columns(type(self.config.task))
        return joined(TRAINING_COLUMNS, held_out, CACHE_COLUMNS, self.objective.columns, RECORDED_COLUMNS)

    def _recordable(
        self,
        optimizer: torch.optim.Optimizer,
        parts: Objective | ViewAugmenter,
        recorder: graphs.Recorder | None,
    ) -> graphs.StepGraph:
        network = self.student if isinstance(parts, Objective) else None
        refused = graphs.refusal(optimizer, parts, network) if recorder is not None else None
        modules = [parts] if network is None else [network, parts]
        return graphs.StepGraph(modules, optimizer, recorder, refused)

    def run(
        self,
        state: Mapping[str, Any] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        share_warmup_as: str = "",
    ) -> Iterator[Epoch]:
        """Trains, yielding each finished epoch: first those of the heads' warm-up, then the student's.

        Args:
            state: the `state` of an epoch to go on after; None starts at the beginning.
            should_stop: asked once per step, and while another process trains the warm-up that this trial needs.
            share_warmup_as: the trial's name, under which the warm-up is kept for others; one that was kept is taken,
                and its last epoch is then the only one of the warm-up. Empty: trains its own and keeps nothing.

        Raises:
            Interrupted: after `should_stop` returned True.
            Diverged: when a loss is not finite.
        """

        def check() -> None:
            if should_stop():
                raise Interrupted

        stage, done = ("warmup", 0) if state is None else (state["stage"], state["epoch"])
        shared = None
        if share_warmup_as and stage == "warmup" and done < self.views.warmup_epochs and self.teacher is not None:
            of_trial = (self.config, self.dataset, self.train, self.teacher, self.views, share_warmup_as)
            shared = SharedWarmup.of(*of_trial, self.limits.warmup)  # named after the heads as they were drawn
        if state is not None:
            self.load_state(state)
        if stage == "warmup":
            left = range(done + 1, self.views.warmup_epochs + 1)
            own = ((epoch, self.warmup_epoch(epoch, should_stop)) for epoch in left)
            warming = own if shared is None else shared.epochs(done, self.warmup_epoch, should_stop, check)
            with contextlib.closing(warming):
                for epoch, row in warming:
                    yield Epoch("warmup", epoch, row, self.state("warmup", epoch))
            done = 0
        for epoch in range(done + 1, self.config.training.epochs + 1):
            row = self.student_epoch(epoch, should_stop)
            yield Epoch("student", epoch, row, self.state("student", epoch))

    @_as_set
    def warmup_epoch(self, epoch: int, should_stop: Callable[[], bool]) -> dict[str, float | None]:
        """Trains the view heads alone for one epoch and returns its row."""
        assert self.warmup_optimizer is not None and self._warmup_graph is not None
        started = time.monotonic()
        rate = self.views.warmup_learning_rate(epoch)
        set_learning_rate(self.warmup_optimizer, rate)
        self.views.train()
        self._warmup_graph.begin_epoch(graphs.baked_numbers(self.warmup_optimizer, self.views, epoch))
        sums = Sums()
        for step in self._batches("warmup", epoch, should_stop):
            sums.add(len(step.batch.labels_B), self._warmup_graph(self._warmup_step, step))
        if epoch == self.views.warmup_epochs:
            self._warmup_graph.release()
        means = finite_means(sums, epoch=0)
        row: dict[str, float | None] = {"lr": rate, **means, **self._cache_rates()}
        return row | {"wall_time_s": time.monotonic() - started}

    def _warmup_step(self, step: StepInputs) -> dict[str, Tensor]:
        """One update of the view heads alone; returns what it measures."""
        assert self.warmup_optimizer is not None
        assert step.teacher is not None, "views are refused without a teacher"
        terms = self.views.warmup_penalties(step.teacher, step.batch.given_to(VIEWS))
        total = weighted_sum(terms, self.views.penalty_weights())
        assert total is not None, "views with a warm-up stage have penalties"
        self.warmup_optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.warmup_optimizer.step()
        return {**{f"loss.views.{name}": value for name, value in terms.items()}, "total": total}

    @_as_set
    def student_epoch(self, epoch: int, should_stop: Callable[[], bool]) -> dict[str, float | None]:
        """Trains student, methods and (where they train jointly) heads for one epoch and returns its row."""
        started = time.monotonic()
        rate = self.config.training.learning_rate(epoch)
        set_learning_rate(self.optimizer, rate)
        self.student.train(self.config.student.train == "all")
        self.objective.train()
        self._student_graph.begin_epoch(graphs.baked_numbers(self.optimizer, self.objective, epoch))
        sums = Sums()
        for step in self._batches("student", epoch, should_stop):
            sums.add(len(step.batch.labels_B), self._student_graph(self._student_step, step))
        means = finite_means(sums, epoch)
        if (labelled := means.pop(LABELLED, None)) is not None:  # an epoch without any has no accuracy to divide
            means["train_accuracy"] = means["train_accuracy"] / labelled if labelled else 0.0
        trained_s = time.monotonic() - started
        row: dict[str, float | None] = {"lr": rate, **means, "images_per_s": sums.count / trained_s}
        row |= self.objective.measures()
        row |= self._cache_rates()
        row |= self.evaluation.validation_row(epoch)
        return row | {"wall_time_s": time.monotonic() - started, "peak_memory_mib": peak_memory_mib(self.device)}

    def _student_step(self, step: StepInputs) -> dict[str, Tensor]:
        """One update of student, methods and (where they train jointly) heads; returns what it measures."""
        assert step.inputs is not None
        maps = self.objective.needs_maps
        student = self._trained_signals(step.inputs, maps)
        if step.strong is not None:
            student = replace(student, strong=self._trained_signals(step.strong, maps))
        loss = self.objective(student, step.teacher, step.batch)
        self.update(loss)
        self.objective.after_step()
        values = {f"loss.{name}": value for name, value in loss.terms.items()}
        values |= {gate_column("train", name): value for name, value in loss.gates.items()}
        values |= loss.measured
        values["train_accuracy"] = percent_right(loss.logits_BK, step.batch.labels_B)
        if step.batch.labelled_B is not None:
            values[LABELLED] = step.batch.labelled_B.mean(dtype=torch.float64)
        return {**values, "total": loss.total}

    def _cache_rates(self) -> dict[str, float | None]:
        return {} if self.teacher is None else self.teacher.cache_rates()

    def _batches(self, stage: str, epoch: int, should_stop: Callable[[], bool]) -> Iterator[StepInputs]:
        """The batches of one epoch with inputs and the teacher's signals, as far as this stage reads them.

        Order and crops depend on (seeds, stage, epoch) alone, and so does what the student draws, from torch's global
        generator; what views and methods draw depends on their name, too.
        """
        seeds = self.config.seeds
        noise = "noise", seeds.noise, stage, epoch
        seed_draws(derived_seed(*noise), self.device)
        for name, generator in self._streams:
            generator.manual_seed(derived_seed(*noise, name))
        of_student = stage == "student"
        maps, strong = (of_student and self.objective.needs_maps), (of_student and self.objective.needs_strong)
        teacher_of_stage = self.teacher if self.objective.needs_teacher or not of_student else None
        order_seed = derived_seed("order", seeds.order, stage)
        images = of_student or (self.teacher is not None and not self.teacher.fetches_images)
        if teacher_of_stage is not None:
            teacher_of_stage.begin_epoch(order_seed, epoch)
        loading = self.train.epoch(order_seed, epoch, self.config.training.batch_size, images=images, strong=strong)
        with contextlib.closing(loading):
            overlaps = of_student and self.objective.overlaps_batches
            for loaded, repeated in overlapping(loading) if overlaps else ((batch, 0) for batch in loading):
                if should_stop():
                    raise Interrupted
                inputs, strong = (networks.laid_out(some, self.layout) for some in (loaded.inputs, loaded.strong))
                of_teacher = None
                if teacher_of_stage is not None:
                    of_teacher = teacher_of_stage.signals(loaded.positions_B, inputs, loaded.crops_B, maps, strong)
                batch = self.batch(loaded, epoch, self._streams, repeated)
                yield StepInputs(batch, of_teacher, inputs if of_student else None, strong)

    def batch(
        self, loaded: Loaded, epoch: int, streams: tuple[tuple[str, torch.Generator], ...], repeated: int
    ) -> Batch:
        """What methods and views are told of loaded images; `repeated` of them were in the batch before."""
        positions_B, partner_B = loaded.positions_B, loaded.partner_B
        labels_B = self.train.training_labels_N[positions_B]
        partner_labels_B = None if partner_B is None else labels_B[partner_B]
        labelled_B = None
        if self._labelled_N is not None:
            labelled_B = self._labelled_N[positions_B]
            if partner_B is not None and partner_labels_B is not None:
                labelled_B = labelled_B & labelled_B[partner_B]
                partner_labels_B = partner_labels_B.masked_fill(~labelled_B, UNLABELLED)
            labels_B = labels_B.masked_fill(~labelled_B, UNLABELLED)
        ids_B = self.train.sample_ids_N[positions_B]
        (_, first), *_ = streams
        of_teachers = (None if some_N is None else some_N[positions_B] for some_N in (self._untaught_N, self._right_N))
        mixing = partner_labels_B, loaded.share, repeated
        return Batch(labels_B, ids_B, positions_B, epoch, first, *mixing, streams, labelled_B, *of_teachers)

    def _trained_signals(self, inputs: Inputs, maps: bool) -> Signals:
        """What the training student says, in the precision it trains in; float32 for all that reads it."""
        if self.config.training.precision == "fp32":
            return self._student_signals(inputs, maps)
        with torch.autocast(self.device.type, torch.bfloat16):
            signals = self._student_signals(inputs, maps)
        return signals.in_float32()

    def _in_other_order(self, rounding: int) -> InOtherOrder:
        if self.config.student.train == "all" and networks.draws(self.student, self.dataset.inputs):
            raise AkdtuneError(f"seeds.rounding: {networks.draws_sentence(self.config.student.network)}")
        return InOtherOrder(self._forward, rounding)

    def _student_signals(self, inputs: Inputs, maps: bool) -> Signals:
        signals = self._forward(inputs, maps)
        return replace(signals, classifier=self.student.classifier()) if maps else signals

    def update(self, loss: Loss) -> None:
        """One update of student, methods and jointly trained heads."""
        if isinstance(self.optimizer, Dot):
            self.optimizer.backward_and_step(*loss.split())
            return
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def close(self) -> tuple[dict[str, float | None], Predictions]:
        """The last reading, see `Evaluation.close`."""
        return self.evaluation.close()

    def recording(self) -> Recording:
        """What can be kept of its networks on the images that it is judged by, once it is closed."""
        return Recording(self.evaluation)

    def timed(self, steps: int, until: float = math.inf) -> dict[str, float]:
        """Seconds of one warm-up step, one student step, and the work at the end of an epoch, by a few real ones.

        Trains on the first batches, and evaluates on the first images of many, so a trial that was timed must not be
        run.

        Args:
            steps: of each kind that are timed.
            until: when to be content with one, on the monotonic clock.
        """
        times = {"warmup_step_s": 0.0}
        if self.teacher is not None:
            self.teacher.stand_in()  # asking it for all that it keeps would take longer than the timing
        if self.warmup_optimizer is not None:
            times["warmup_step_s"] = timed_steps(lambda stop: self.warmup_epoch(1, stop), steps, until)
        times["student_step_s"] = timed_steps(lambda stop: self.student_epoch(1, stop), steps, until)
        validation, scale = self.evaluation.splits.validation, 1.0
        few = TIMED_IMAGES if time.monotonic() < until else HURRIED_IMAGES
        if validation is not None and len(validation) > few:
            scale = len(validation) / few
            self.evaluation.splits = replace(self.evaluation.splits, validation=validation.first(few))
            if self.evaluation.share_as:  # what teachers say about some images is not what they say about all
                self.evaluation.share_as += f"/first {few}"
        views_every = self.limits.views_every
        self.evaluation.validation_row(views_every)
        without_s = _timed(self.evaluation.validation_row, 1)
        with_views_s = _timed(self.evaluation.validation_row, views_every) if time.monotonic() < until else without_s
        return times | {"epoch_end_s": scale * (without_s + max(0.0, with_views_s - without_s) / views_every)}

    def state(self, stage: str, epoch: int) -> dict[str, Any]:
        """A copy of everything that changes: networks, heads, banks, optimisers, scores, epoch."""
        warming = self.warmup_optimizer if stage == "warmup" else None
        return {
            "stage": stage,
            "epoch": epoch,
            "streams": self.streams,
            "student": copied(self.student.state_dict()),
            "objective": copied(self.objective.state_dict()),
            "optimizer": copied(self.optimizer.state_dict()),
            "warmup_optimizer": copied(warming.state_dict()) if warming else None,
            "recent_scores": list(self.evaluation.recent_scores),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state that `state` returned."""
        self.release()  # a recording knows the optimiser's tensors, which are replaced
        self.student.load_state_dict(state["student"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(copied(state["optimizer"]))
        lay_out(self.optimizer)
        if self.warmup_optimizer and state["warmup_optimizer"] is not None:
            self.warmup_optimizer.load_state_dict(copied(state["warmup_optimizer"]))
        self.evaluation.recent_scores = list(state["recent_scores"])
        self.streams = state.get("streams", 1)
        if self.streams != STREAMS and self.config.draws:
            print("warning: epochs so far drew before random streams had names, those to come draw from named ones")

    def release(self) -> None:
        """Frees the memory of recorded steps; they are recorded again when needed."""
        self._student_graph.release()
        if self._warmup_graph is not None:
            self._warmup_graph.release()


def trial_of(
    config: TrialConfig,
    stand_ins: Sequence[networks.Network] = (),
    dataset: RowDataSet | None = None,
    *,
    limits: TrialLimits | None = None,
) -> TrialLoop:
    """A trial as its task runs it; arguments as those of `Trial`."""
    return (config.task.Trial or Trial)(config, stand_ins, dataset, limits=limits)


def _timed(work: Callable[[int], object], epoch: int) -> float:
    started = time.monotonic()
    work(epoch)
    return time.monotonic() - started
