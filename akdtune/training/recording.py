"""What is kept of a trial's networks on the images that it is judged by, read off at its end; nothing here trains.

Shapes: N images, B batch, V views, J answers, P places of maps, K classes, C channels or feature width, H, W of a map.

References:
    Attention maps: RethinkKD (2024, arXiv 2405.00739): the classifier as a 1x1 convolution of the last map, summed over
    all classes; that of the predicted class beside it is ours.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from akdtune import networks
from akdtune.columns import Column
from akdtune.data.row_sets import RowSplit
from akdtune.data.splits import Split
from akdtune.devices import float32_as_set
from akdtune.randomness import derived_seed
from akdtune.signals import Signals, Views, labelled_rows
from akdtune.training.evaluation import EVALUATION_BATCH, Evaluation
from akdtune.training.likeliest import Likeliest, likeliest_of
from akdtune.training.measures import STOCHASTIC_DRAWS, fixed_views, percent_right

RECORDED_COLUMNS = (
    Column(
        "plain_train_accuracy",
        "percent",
        "accuracy of the student on its training images without augmentation, by the labels it trained on, at its end",
    ),
)
"""What a row says that is only measured where `record` asks for it."""

AUGMENTED_SEED = derived_seed("recorded under augmentation")
"""Of the one augmented pass: the same for all trials and teachers, which are compared on the same images."""

PLACES_BATCH = 64
"""Images whose maps are computed at a time: views answer every place of them."""


class ClassMaps(NamedTuple):
    """What each place of the last map contributes to class scores, at the map's own size, on the CPU.

    Attributes:
        sum_NHW: to the sum of all classes.
        predicted_NHW: to the class that is predicted.
    """

    sum_NHW: Tensor
    predicted_NHW: Tensor


class Recording:
    """What can be kept of a trial that has been closed; each is computed when it is asked for, and is on the CPU.

    Args:
        evaluation: of the trial.
        split: the images; default: those that the trial is judged by.
    """

    def __init__(self, evaluation: Evaluation, split: RowSplit | None = None) -> None:
        self._of, self._given = evaluation, split

    @cached_property
    def split(self) -> RowSplit:
        """The images."""
        return self._of.judged if self._given is None else self._given

    @property
    def reads_test(self) -> bool:
        """Whether they are the test set, and not those of validation."""
        return self.split is self._of.splits.test

    @property
    def image_size(self) -> int:
        """Height = width of the images, in pixels."""
        return self._images.pixels.size

    @property
    def _images(self) -> Split:
        """The split, of which images alone are asked what this is needed for."""
        assert isinstance(self.split, Split), "what is kept of images is refused for other data"
        return self.split

    def views(self) -> list[Tensor]:
        """Log-probabilities [N, K] of each view at temperature 1, those of stochastic ones of the mean probability."""
        total_NVK: Tensor | None = None
        for of_views in self._drawn():
            log_NVK = torch.log_softmax(of_views.logits_BVK, dim=-1)
            total_NVK = log_NVK if total_NVK is None else torch.logaddexp(total_NVK, log_NVK)
        if total_NVK is None:
            return []
        draws = STOCHASTIC_DRAWS if self._of.objective.views.stochastic else 1
        return [log_NK.cpu() for log_NK in (total_NVK - math.log(draws)).unbind(1)]

    def features(self, images: int) -> dict[str, Tensor]:
        """Pooled features [images, C] of student and views; of stochastic views those of the first fixed draw."""
        held = {"student": self._student.pooled_BC}
        with contextlib.closing(self._drawn()) as drawn:
            first = next(drawn, None)
        if first is not None:
            held |= {f"view_{index}": view_NC for index, view_NC in enumerate(first.pooled_BVC.unbind(1), start=1)}
        return {name: values_NC[:images].float().cpu() for name, values_NC in held.items()}

    def attention(self, images: int) -> dict[str, ClassMaps]:
        """Maps of the student, unless it predicts through a method's head, and of views that are affine.

        Networks without a last map have none.
        """
        few, of = self.split.first(images), self._of
        maps: dict[str, ClassMaps] = {}
        if of.objective.head is None and of.student.last_map_shape is not None:
            of.asked_student()
            maps["student"] = self._maps(of.student, few)
        if of.objective.views.affine and of.teacher is not None and of.teacher.network.last_map_shape is not None:
            maps |= self._view_maps(of.teacher.network, few)
        return maps

    def answers(self) -> Tensor | None:
        """Logits [N, J, K] of each answer of a student that gives several; None of one that gives one."""
        answers_NJK = self._student.answers_BJK
        return None if answers_NJK is None else answers_NJK.cpu()

    def augmented(self) -> Tensor:
        """The student's logits [N, K] on images that are augmented as in training, with draws that no epoch has."""
        return self._augmented(self._of.asked_student())

    @torch.no_grad()
    def plain_train_accuracy(self) -> float:
        """Column `plain_train_accuracy`."""
        train = self._of.splits.train
        logits_NK, labels_N = self._of.student_signals(train).logits_BK, train.training_labels_N
        labelled_N = labelled_rows(labels_N)
        if labelled_N is not None:
            logits_NK, labels_N = logits_NK[labelled_N], labels_N[labelled_N]
        return float(percent_right(logits_NK, labels_N))

    @property
    def has_teacher(self) -> bool:
        """Whether there are teachers to be asked."""
        return self._of.teacher is not None

    def teacher_logits(self) -> list[Tensor]:
        """Logits [N, K] of every teacher, the main one first."""
        return [said.logits_BK.cpu() for said in self._teachers]

    def teacher_likeliest(self) -> list[Likeliest]:
        """The likeliest classes of every teacher, the main one first."""
        with float32_as_set(self.split.labels_N.device, self._of.config.training.tf32):
            return [likeliest_of(network, self.split) for network in self._networks]

    def teacher_features(self, images: int) -> dict[str, Tensor]:
        """Pooled features [images, C] of every teacher."""
        return {f"features_{i}": said.pooled_BC[:images].float().cpu() for i, said in enumerate(self._teachers)}

    def teacher_attention(self, images: int) -> dict[str, ClassMaps]:
        """Maps of every teacher that has a last map."""
        few = self.split.first(images)
        having = ((i, network) for i, network in enumerate(self._networks) if network.last_map_shape is not None)
        return {f"teacher_{i}": self._maps(network, few) for i, network in having}

    def teacher_augmented(self) -> list[Tensor]:
        """Logits [N, K] of every teacher on the images of `augmented`."""
        return [self._augmented(network) for network in self._networks]

    @property
    def _networks(self) -> Sequence[networks.Network]:
        teacher = self._of.teacher
        return () if teacher is None else (teacher.network, *teacher.others)

    @property
    def _teachers(self) -> Sequence[Signals]:
        said = self._of.teacher_signals(self.split)
        return () if said is None else (replace(said, others=()), *said.others)

    @cached_property
    def _student(self) -> Signals:
        of = self._of
        known = of.at_close if self._given is None else None
        return of.student_signals(self.split) if known is None else known

    @torch.no_grad()
    def _drawn(self) -> Generator[Views, None, None]:
        """The views of all images, drawn as their diversity is measured; nothing without a teacher."""
        of = self._of
        teacher_N = of.teacher_signals(self.split)
        if teacher_N is None:
            return
        student_N = self._student
        of.objective.eval()
        with float32_as_set(self.split.labels_N.device, of.config.training.tf32):
            yield from fixed_views(of.objective.views, teacher_N, student_N, of.config.seeds.noise)

    @torch.no_grad()
    def _augmented(self, network: Callable[[Tensor], Signals]) -> Tensor:
        with float32_as_set(self.split.labels_N.device, self._of.config.training.tf32):
            batches = self._images.augmented_batches(AUGMENTED_SEED, EVALUATION_BATCH)
            return networks.signals_of(network, batches).logits_BK.cpu()

    @torch.no_grad()
    def _maps(self, network: networks.Network, split: RowSplit) -> ClassMaps:
        parts = []
        with float32_as_set(split.labels_N.device, self._of.config.training.tf32):
            for _, images_BCHW in split.plain_batches(EVALUATION_BATCH):
                said = network(images_BCHW, True)
                assert said.last_map is not None, "it has the shape of one"
                parts.append(class_maps(said.last_map, said.logits_BK, *network.classifier()))
        return _joined(parts)

    @torch.no_grad()
    def _view_maps(self, teacher: networks.Network, split: RowSplit) -> dict[str, ClassMaps]:
        """Maps of affine views: what they say of each place of the teacher's last map, as if it were the feature."""
        views, device = self._of.objective.views, split.labels_N.device
        views.eval()
        parts: list[list[ClassMaps]] = []
        with float32_as_set(device, self._of.config.training.tf32):
            for _, images_BCHW in split.plain_batches(PLACES_BATCH):
                last_BCHW = teacher(images_BCHW, True).last_map
                assert last_BCHW is not None, "it has the shape of one"
                batch, channels, height, width = last_BCHW.shape
                places_PC = last_BCHW.permute(0, 2, 3, 1).reshape(-1, channels)
                of_places = Signals(functional.linear(places_PC, *teacher.classifier()), places_PC)
                said = views.views(of_places, torch.Generator(device)).logits_BVK
                scores_BHWVK = said.view(batch, height, width, *said.shape[1:])
                parts.append([_of_scores(scores_BHWK) for scores_BHWK in scores_BHWVK.unbind(3)])
        return {f"view_{index}": _joined(of_view) for index, of_view in enumerate(zip(*parts, strict=True), start=1)}


def class_maps(last_BCHW: Tensor, logits_BK: Tensor, weight_KC: Tensor, bias_K: Tensor) -> ClassMaps:
    """A network's maps: its classifier as a 1x1 convolution of its last map, summed, and of the predicted class.

    The mean of a map over its places is the score that it explains: the sum of all logits, the largest logit.
    """
    answers_B = logits_BK.argmax(dim=1)
    sum_BHW = torch.einsum("c,bchw->bhw", weight_KC.sum(dim=0), last_BCHW) + bias_K.sum()
    predicted_BHW = torch.einsum("bc,bchw->bhw", weight_KC[answers_B], last_BCHW) + bias_K[answers_B][:, None, None]
    return ClassMaps(sum_BHW.cpu(), predicted_BHW.cpu())


def _of_scores(scores_BHWK: Tensor) -> ClassMaps:
    """The same out of the scores of all classes at each place."""
    answers_B = scores_BHWK.mean(dim=(1, 2)).argmax(dim=1)
    index_BHW1 = answers_B[:, None, None, None].expand(*scores_BHWK.shape[:3], 1)
    return ClassMaps(scores_BHWK.sum(dim=3).cpu(), scores_BHWK.gather(3, index_BHW1).squeeze(3).cpu())


def _joined(parts: Sequence[ClassMaps]) -> ClassMaps:
    return ClassMaps(*(torch.cat(maps) for maps in zip(*parts, strict=True)))
