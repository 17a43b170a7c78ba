"""The published training step, written plainly: what `trial_speed.py` times our step against.

Images pass one by one through PIL and torchvision's transforms in a DataLoader without workers, which for CRD also
draws 16,384 negatives an image with NumPy. The teacher runs in every step, every view head is a module of its own,
angular losses go view by view and pair by pair, CRD gathers the rows of all negatives out of both memory banks;
everything is float32, NCHW, and torch's default SGD. All of it is written from the formulas. Left out is what the
published loop does besides (progress bar, running accuracies): it would only make this side slower.

It takes weights, memory banks and settings from a `Trial`, so that both compute the same losses; `compare` proves it.
Networks are the same modules on both sides.
"""

# Shapes: B batch, N training images, V views, M members (teacher and views), K classes, C feature width, E embedding
# width, S = 1 + J scores per image (the image's own first), H, W.

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from reference_maps import MAPS, PlainMaps
from step import PlainHead, plain_level
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional as pil

from akdtune.data.dataset import DataSet
from akdtune.data.row_sets import Loaded
from akdtune.data.splits import Split
from akdtune.methods.crd import CRD, EPSILON
from akdtune.methods.kd import KD
from akdtune.randomness import derived_seed
from akdtune.signals import Batch, Signals
from akdtune.training.loop import Interrupted
from akdtune.training.objective import Loss, Objective
from akdtune.training.trial import Trial
from akdtune.views.angular import Angular

TERM_FLOOR = 1e-3
"""Terms smaller than this are compared by their absolute difference over it: a closed gate makes a term 0."""


class PlainBatch(NamedTuple):
    """What the published loader gives.

    Attributes:
        images_BCHW: normalised, float32.
        labels_B: int64.
        positions_B: number of each image, int64.
        index_BS: with CRD, the image's own number and those of its negatives, int64.
    """

    images_BCHW: Tensor
    labels_B: Tensor
    positions_B: Tensor
    index_BS: Tensor | None = None

    def to(self, device: torch.device) -> PlainBatch:
        """The same on a device."""
        return PlainBatch(*(None if part is None else part.to(device) for part in self))


class PublishedImages(Dataset[tuple[Any, ...]]):
    """Training images one at a time: PIL, random crop, random flip, tensor, normalise; with CRD its negatives, too.

    Args:
        images_NCHW: uint8.
        labels_N: int64.
        dataset: names padding, flip and channel statistics.
        negatives: to draw for each image, from those of other classes; 0 without CRD.
    """

    def __init__(self, images_NCHW: Tensor, labels_N: Tensor, dataset: DataSet, negatives: int = 0) -> None:
        self.images_NHWC = images_NCHW.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels_N = labels_N.tolist()
        size, augmentation = dataset.inputs.size, dataset.augmentation
        steps: list[Callable[[Any], Any]] = [transforms.RandomCrop(size, padding=augmentation.pad)]
        if augmentation.flip:
            steps.append(transforms.RandomHorizontalFlip())
        steps += [transforms.ToTensor(), transforms.Normalize(dataset.mean_C.tolist(), dataset.std_C.tolist())]
        self.transform = transforms.Compose(steps)
        self.negatives = negatives
        classes = range(dataset.num_classes) if negatives else ()
        self.others_K = [np.flatnonzero(labels_N.numpy() != label) for label in classes]

    def __len__(self) -> int:
        return len(self.labels_N)

    def __getitem__(self, position: int) -> tuple[Any, ...]:
        """Image, label, number, and with CRD the numbers of the image and of its negatives."""
        label = self.labels_N[position]
        image_CHW = self.transform(Image.fromarray(self.images_NHWC[position]))
        if not self.negatives:
            return image_CHW, label, position
        return image_CHW, label, position, np.hstack(([position], self.draw(label)))

    def draw(self, label: int) -> np.ndarray[Any, Any]:
        """Numbers of images of other classes, drawn as published: with replacement only where there are too few."""
        others = self.others_K[label]
        replace = self.negatives > len(others)
        return np.random.choice(others, self.negatives, replace=replace)  # noqa: NPY002 - as published


def batches(images: PublishedImages, batch_size: int, workers: int = 0) -> Iterator[PlainBatch]:
    """Shuffled batches without end, made by so many processes (0: this one)."""
    loader: DataLoader[Any] = DataLoader(images, batch_size=batch_size, shuffle=True, num_workers=workers)
    while True:
        for loaded in loader:
            yield PlainBatch(*loaded)


class ViewHead(PlainHead):
    """Dropout, linear map, batch norm, linear classifier; without dropout, on running statistics in eval mode."""

    def forward(self, pooled_BC: Tensor, mask_BC: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """View logits and view feature; a mask takes the place of the drawn dropout."""
        if mask_BC is None:
            dropped_BC = functional.dropout(pooled_BC, self.dropout, self.training)
        else:
            dropped_BC = pooled_BC * mask_BC
        feature_BC = self.norm(self.mix(dropped_BC))
        return self.classify(feature_BC), feature_BC


class PlainCRD(nn.Module):
    """Contrastive representation distillation with scores, not their logs, and a gather of every row.

    The constant of each side is fixed by its first batch; the banks are updated in the forward pass, as published.
    """

    student_bank_NE: Tensor
    teacher_bank_NE: Tensor

    def __init__(self, crd: CRD) -> None:
        super().__init__()
        self.temperature, self.momentum = crd.settings.temperature, crd.settings.momentum
        self.embed_student, self.embed_teacher = copy.deepcopy(crd.embed_student), copy.deepcopy(crd.embed_teacher)
        self.register_buffer("student_bank_NE", crd.student_bank_NE.clone())
        self.register_buffer("teacher_bank_NE", crd.teacher_bank_NE.clone())
        self.partitions: list[float] = []

    def forward(self, student_BC: Tensor, teacher_BC: Tensor, positions_B: Tensor, index_BS: Tensor) -> Tensor:
        """Loss of the student's embedding against the teacher's bank plus that of the teacher's against the other."""
        student_BE = functional.normalize(self.embed_student(student_BC), dim=1)
        teacher_BE = functional.normalize(self.embed_teacher(teacher_BC), dim=1)
        sides = (student_BE, self.teacher_bank_NE), (teacher_BE, self.student_bank_NE)
        scores = [self._scores_BS(embedding_BE, bank_NE, index_BS) for embedding_BE, bank_NE in sides]
        if not self.partitions:
            self.partitions = [float(score.detach().mean()) * len(self.student_bank_NE) for score in scores]
        self._update(self.student_bank_NE, student_BE, positions_B)
        self._update(self.teacher_bank_NE, teacher_BE, positions_B)
        of_student, of_teacher = (self._loss(score / z) for score, z in zip(scores, self.partitions, strict=True))
        return of_student + of_teacher

    def _scores_BS(self, embedding_BE: Tensor, bank_NE: Tensor, index_BS: Tensor) -> Tensor:
        rows_BSE = bank_NE.index_select(0, index_BS.view(-1)).view(*index_BS.shape, -1)
        return torch.exp(torch.bmm(rows_BSE, embedding_BE.unsqueeze(2)).squeeze(2) / self.temperature)

    def _loss(self, probability_BS: Tensor) -> Tensor:
        noise = (probability_BS.shape[1] - 1) / len(self.student_bank_NE)
        own_B, others_BJ = probability_BS[:, 0], probability_BS[:, 1:]
        log_own = torch.log(own_B / (own_B + noise + EPSILON)).sum()
        log_others = torch.log(noise / (others_BJ + noise + EPSILON)).sum()
        return -(log_own + log_others) / len(own_B)

    @torch.no_grad()
    def _update(self, bank_NE: Tensor, embedding_BE: Tensor, positions_B: Tensor) -> None:
        mixed_BE = self.momentum * bank_NE.index_select(0, positions_B) + (1 - self.momentum) * embedding_BE
        bank_NE.index_copy_(0, positions_B, functional.normalize(mixed_BE, dim=1))


class ReferenceStep:
    """Student, teacher, heads and CRD of a trial as copies, and the published step on them.

    Args:
        trial: with a teacher, base methods kd and (or) crd or one on maps, and plain or angular views whose heads
            train beside the student.
        layout: of images and of the networks' weights in memory; the published one by default.
    """

    def __init__(self, trial: Trial, layout: torch.memory_format = torch.contiguous_format) -> None:
        assert trial.teacher is not None
        objective, settings = trial.objective, trial.config.training
        methods = dict(objective.methods.items())
        assert methods.keys() <= {"kd", "crd", *MAPS}, "only these are written here"
        self.student, self.teacher = (
            copy.deepcopy(network).float().to(memory_format=layout)
            for network in (trial.student, trial.teacher.network)
        )
        self.layout = layout
        self.student.train()
        self.teacher.eval()
        kd, crd = methods.get("kd"), methods.get("crd")
        self.kd = kd.settings if isinstance(kd, KD) else None
        self.crd = PlainCRD(crd) if isinstance(crd, CRD) else None
        self.angular = objective.views.settings if isinstance(objective.views, Angular) else None
        self.heads = nn.ModuleList()
        if isinstance(objective.views, Angular):
            assert objective.views.trains_jointly and not objective.views.settings.learnable_margin
            self.heads.extend(ViewHead(objective.views, index) for index in range(len(objective.views.heads.keep_V)))
            self.member_weights: list[float] = objective.views.weights_M.tolist()
        self.weights = {f"views.{name}": weight for name, weight in objective.views.penalty_weights().items()}
        self.weights |= {"ce": objective.ce_weight}
        self.weights |= {name: getattr(method, "settings").weight for name, method in methods.items()}
        self.maps = next((PlainMaps(name, method) for name, method in methods.items() if name in MAPS), None)
        if self.maps is not None:
            self.maps = self.maps.to(memory_format=layout)
            self.weights |= {self.maps.name: self.maps.weight}
        modules = [self.student, self.heads, *(part for part in (self.crd, self.maps) if part is not None)]
        self.optimizer = torch.optim.SGD(
            [parameter for module in modules for parameter in module.parameters()],
            lr=settings.learning_rate(1),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    def step(self, batch: PlainBatch) -> float:
        """One update; returns the loss."""
        self.optimizer.zero_grad()
        loss = self.total(self.terms(batch))
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum."""
        total = torch.zeros(())
        for name, value in terms.items():
            total = total + self.weights[name] * value
        return total

    def terms(self, batch: PlainBatch, masks_VBC: Tensor | None = None) -> dict[str, Tensor]:
        """Every unweighted term under the name that `Objective` gives it.

        Args:
            batch: of the published loader.
            masks_VBC: dropout masks of the heads (0 or 1 / keep); None draws them.
        """
        images_BCHW = batch.images_BCHW.contiguous(memory_format=self.layout)
        maps = self.maps is not None
        with torch.no_grad():
            teacher = self.teacher(images_BCHW, maps)
        student = self.student(images_BCHW, maps)
        if self.maps is not None:
            logits_BK, loss = self.maps(student, teacher)
            return {"ce": functional.cross_entropy(logits_BK, batch.labels_B), self.maps.name: loss}
        terms = {"ce": functional.cross_entropy(student.logits_BK, batch.labels_B)}
        logits, pooled = [teacher.logits_BK], [teacher.pooled_BC]
        if self.angular is not None:
            views = self.view_targets(teacher.pooled_BC)
            trained = self._views(teacher.pooled_BC, masks_VBC)
            terms |= self._penalties(teacher.logits_BK, teacher.pooled_BC, *trained, batch.labels_B)
            of_views = trained if views is None else views
            logits, pooled = logits + of_views[0], pooled + of_views[1]
            if self.angular.detach_targets:
                logits, pooled = [of_view.detach() for of_view in logits], [of_view.detach() for of_view in pooled]
        weights = self.member_weights if len(logits) > 1 else [1.0]
        if self.kd is not None:
            terms["kd"] = self._kd(student.logits_BK, logits, weights)
        if self.crd is not None:
            assert batch.index_BS is not None
            target_BC = torch.stack([w * of_view for w, of_view in zip(weights, pooled, strict=True)]).sum(dim=0)
            terms["crd"] = self.crd(student.pooled_BC, target_BC, batch.positions_B, batch.index_BS)
        return terms

    def warmup_terms(self, batch: PlainBatch, masks_VBC: Tensor | None = None) -> dict[str, Tensor]:
        """The penalties of the view heads alone, which train before the student where there is a warm-up."""
        with torch.no_grad():
            teacher = self.teacher(batch.images_BCHW.contiguous(memory_format=self.layout))
        views = self._views(teacher.pooled_BC, masks_VBC)
        return self._penalties(teacher.logits_BK, teacher.pooled_BC, *views, batch.labels_B)

    def _kd(self, student_BK: Tensor, logits: list[Tensor], weights: list[float]) -> Tensor:
        assert self.kd is not None
        at, own = self.kd.temperature, None if self.angular is None else self.angular.target_temperature
        target_BK = torch.zeros_like(student_BK)
        for weight, logits_BK in zip(weights, logits, strict=True):
            target_BK = target_BK + weight * functional.softmax(logits_BK / (own or at), dim=1)
        student_BK = functional.log_softmax(student_BK / at, dim=1)
        return functional.kl_div(student_BK, target_BK, reduction="batchmean") * at**2

    def view_targets(self, pooled_BC: Tensor) -> tuple[list[Tensor], list[Tensor]] | None:
        """Views without dropout, with running statistics; None where the target is what the heads train on."""
        assert self.angular is not None
        if self.angular.target_mode == "train":
            return None
        self.heads.eval()
        with torch.set_grad_enabled(not self.angular.detach_targets):
            views = self._views(pooled_BC, None)
        self.heads.train()
        return views

    def _views(self, pooled_BC: Tensor, masks_VBC: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        of_heads = [head(pooled_BC, None if masks_VBC is None else masks_VBC[i]) for i, head in enumerate(self.heads)]
        return [logits_BK for logits_BK, _ in of_heads], [feature_BC for _, feature_BC in of_heads]

    def _penalties(
        self, logits_BK: Tensor, pooled_BC: Tensor, views_K: list[Tensor], views_C: list[Tensor], labels_B: Tensor
    ) -> dict[str, Tensor]:
        settings = self.angular
        assert settings is not None
        teacher_BK, *views = (
            functional.softmax(logits / settings.angle_temperature, dim=1) for logits in (logits_BK, *views_K)
        )
        terms = plain_level(pooled_BC, views_C, True, settings, "feature")
        terms |= plain_level(teacher_BK, views, settings.logit_sim == "cosine", settings, "logit")
        ground_truth_V = torch.stack([functional.cross_entropy(logits, labels_B) for logits in views_K])
        terms["ground_truth"] = ground_truth_V.sum() if settings.gt_reduction == "sum" else ground_truth_V.mean()
        return {f"views.{name}": value for name, value in terms.items() if self.weights.get(f"views.{name}")}


class _Half(nn.Module):
    """A network under autocast to bfloat16, as torch's guide shows it; what it says is float32 again."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_BCHW: Tensor, maps: bool = False) -> Signals:
        """As the network's own."""
        with torch.autocast("cpu", torch.bfloat16):
            signals: Signals = self.network(images_BCHW, maps)
        return signals.in_float32()


def in_bfloat16(step: ReferenceStep) -> None:
    """Puts both networks of a step under autocast; losses, heads and CRD stay in float32, as in a trial."""
    step.student, step.teacher = _Half(step.student), _Half(step.teacher)


class Seen(NamedTuple):
    """What one real step of a trial had in hand.

    Attributes:
        loss: of the objective, detached.
        batch: with the negatives that CRD drew.
        masks_VBC: dropout masks that the heads drew; None without heads.
    """

    loss: Loss
    batch: PlainBatch
    masks_VBC: Tensor | None


def first_step(trial: Trial, epoch: int) -> Seen:
    """Lets a trial do the first step of an epoch in its own loop, update included, and says what it worked on."""
    caught: list[Any] = []

    def before(_: nn.Module, given: tuple[Any, ...]) -> None:
        batch = next(item for item in given if isinstance(item, Batch))
        caught.extend((batch, batch.generator.get_state()))

    def after(module: nn.Module, _: tuple[Any, ...], loss: Loss) -> None:
        assert isinstance(module, Objective)
        crd = dict(module.methods.items()).get("crd")
        index_BS = crd._step.index_BS if isinstance(crd, CRD) and crd._step is not None else None
        terms = {name: value.detach().clone() for name, value in loss.terms.items()}
        caught.extend((index_BS, loss._replace(total=loss.total.detach().clone(), terms=terms, weighted=())))

    hooks = trial.objective.register_forward_pre_hook(before), trial.objective.register_forward_hook(after)
    asked = iter((False, True))
    with contextlib.suppress(Interrupted):
        trial.student_epoch(epoch, lambda: next(asked))
    for hook in hooks:
        hook.remove()
    batch, state, index_BS, loss = caught
    images_BCHW = first_loaded(trial, epoch).inputs
    assert images_BCHW is not None
    plain = PlainBatch(images_BCHW, batch.labels_B, batch.positions_B, index_BS)
    return Seen(loss, plain, _masks_VBC(trial, state, len(batch.labels_B)))


def _masks_VBC(trial: Trial, state: Tensor, batch: int) -> Tensor | None:
    """The dropout masks that heads draw from a generator in this state: they are the first to draw."""
    if not isinstance(trial.views, Angular):
        return None
    generator = torch.Generator()
    generator.set_state(state)
    heads = trial.views.heads
    return heads.dropped_VBC(torch.ones(batch, heads.weight_VCC.shape[1]), generator)


def first_loaded(trial: Trial, epoch: int) -> Loaded:
    """The first batch of an epoch of the student, as our loader gives it."""
    order_seed = derived_seed("order", trial.config.seeds.order, "student")
    loading: Generator[Loaded, None, None] = trial.train.epoch(order_seed, epoch, trial.config.training.batch_size)
    with contextlib.closing(loading):
        return next(loading)


class Differences(NamedTuple):
    """How far two computations of the same step lie apart, as shares of the reference's numbers.

    Attributes:
        terms: the largest difference of a loss term, or of their weighted sum.
        gradient: length of the difference of the student's whole gradient.
        update: length of the difference of the student's weights after the step, as a share of the step.
        loss: the reference's weighted sum itself.
    """

    terms: float
    gradient: float
    update: float
    loss: float


def compare(trial: Trial, references: Sequence[ReferenceStep], epoch: int = 1) -> list[Differences]:
    """One step of all from the same weights, on the same batch, with the same dropout masks and negatives.

    In another layout sums are rounded in another order, and the few inputs of a ReLU that are 0 but for rounding fall
    on its other side, each with its whole gradient. Gradients are the same to 1e-4 only in the trial's own layout.

    Args:
        trial: that has not trained since the references were copied from it, at the learning rate of epoch 1.
        references: each trains one step as well.
        epoch: whose first batch is used.
    """
    seen = first_step(trial, epoch)
    return [_difference(trial, reference, seen) for reference in references]


def _difference(trial: Trial, reference: ReferenceStep, seen: Seen) -> Differences:
    old = _flat(reference.student.parameters())
    reference.optimizer.zero_grad()
    terms = reference.terms(seen.batch, seen.masks_VBC)
    total = reference.total(terms)
    total.backward()  # type: ignore[no-untyped-call]
    reference.optimizer.step()
    assert terms.keys() == seen.loss.terms.keys(), f"{sorted(terms)} against {sorted(seen.loss.terms)}"
    pairs = [(seen.loss.terms[name], value.detach()) for name, value in terms.items()]
    pairs.append((seen.loss.total, total.detach()))
    ours, theirs = (
        (_flat(_gradient(parameter) for parameter in student.parameters()), _flat(student.parameters()))
        for student in (trial.student, reference.student)
    )
    return Differences(
        terms=max(abs(float(first) - float(second)) / max(abs(float(second)), TERM_FLOOR) for first, second in pairs),
        gradient=float((ours[0] - theirs[0]).norm() / theirs[0].norm()),
        update=float((ours[1] - theirs[1]).norm() / (theirs[1] - old).norm()),
        loss=float(pairs[-1][1]),
    )


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers of some tensors in the order of their axes, whatever their layout in memory."""
    return torch.cat([tensor.detach().double().contiguous().view(-1) for tensor in tensors])


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def loading_difference(split: Split, images: PublishedImages, loaded: Loaded, pad: int) -> float:
    """Largest difference between our batch and the same crops of the same images by PIL and torchvision."""
    assert loaded.crops_B is not None and loaded.inputs is not None
    size = loaded.inputs.shape[-1]
    drawn = zip(*(part_B.tolist() for part_B in loaded.crops_B), strict=True)
    rows = split.rows_N[loaded.positions_B].tolist()
    worst = 0.0
    for row, (dy, dx, flip), ours_CHW in zip(rows, drawn, loaded.inputs, strict=True):
        image = pil.crop(pil.pad(Image.fromarray(images.images_NHWC[row]), [pad]), dy, dx, size, size)
        theirs_CHW = pil.to_tensor(pil.hflip(image) if flip else image)
        theirs_CHW = pil.normalize(theirs_CHW, *(part_C.tolist() for part_C in split.statistics))
        worst = max(worst, float((ours_CHW - theirs_CHW).abs().max()))
    return worst
