"""Inputs synthesised from a student, and all networks asked about the same inputs."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from akdtune import networks
from akdtune.data.dataset import DataSet, load_data
from akdtune.detection.asking import Asked, ask, logits_of
from akdtune.detection.lineup import Lineup, Student, Teacher
from akdtune.detection.synthesis import Synthesis, mismatch, mixtures, norms_of, synthesise
from akdtune.errors import AkdtuneError
from akdtune.networks import Network
from akdtune.registry import NoSettings
from akdtune.reports.detection.judged import judge
from akdtune.reports.detection.outputs import TeacherFacts
from akdtune.settings.data import DataSettings
from akdtune.signals import InputSpec, Signals
from akdtune.teacher.checkpoints import weights_hash

CPU = torch.device("cpu")
FEW = Synthesis(count=12, steps=5)


@pytest.fixture(scope="module")
def dataset() -> DataSet:
    return load_data(DataSettings(name="digits", validation=0), CPU)


def network(inputs: InputSpec, seed: int, near: int | None = None) -> Network:
    """Drawn weights and running statistics; with `near` those of another seed, a little off."""
    built = networks.build({"name": "cnn", "widths": [4, 8]}, inputs, seed=seed if near is None else near)
    generator = torch.Generator().manual_seed(seed if near is None else near)
    for norm in norms_of(built):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(torch.randn(len(norm.running_mean), generator=generator))
        norm.running_var.copy_(torch.rand(len(norm.running_var), generator=generator) + 0.5)
    built.fc.weight.data *= 10
    if near is not None:
        noise = torch.Generator().manual_seed(seed)
        for parameter in built.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=noise)
    return built.eval().requires_grad_(False)


def lineup(dataset: DataSet) -> Lineup:
    """Three teachers, and four students of each that are almost them; four controls are nobody's."""
    made = Lineup(dataset)
    for place in range(3):
        built = network(dataset.inputs, place)
        made.add_teacher(Teacher(TeacherFacts(f"t{place}", "cnn", weights_hash(built)), built))
    for place in range(12):
        almost = functools.partial(network, dataset.inputs, 100 + place, near=place % 3)
        made.add_student(Student(f"s{place}", "cnn", "distilled", f"t{place % 3}", almost))
    for place in range(3):
        nobody = functools.partial(network, dataset.inputs, 50 + place)
        made.add_student(Student(f"c{place}", "cnn", "control", f"t{place}", nobody))
    return made


class WithoutNorms(Network):
    """A convolution and a linear layer."""

    offers = frozenset()

    def __init__(self, inputs: InputSpec) -> None:
        super().__init__(NoSettings(), inputs)
        self.conv = nn.Conv2d(inputs.channels, 4, 3)
        self.fc = nn.Linear(4, inputs.num_classes)

    def forward(self, images_BCHW: Tensor, stages: bool = False) -> Signals:
        pooled_BC = self.conv(images_BCHW).relu().mean(dim=(2, 3))
        return Signals(self.fc(pooled_BC), pooled_BC)


# --------------------------------------------------------------------------------------------------------- synthesis


def test_mismatch_is_its_formula() -> None:
    norm = nn.BatchNorm2d(2, eps=0.25)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(torch.tensor([1.0, 0.0]))
    norm.running_var.copy_(torch.tensor([0.75, 3.75]))
    given = torch.zeros(4, 2, 3, 3)
    given[:2, 1] = 2.0  # mean 1, variance 1
    expected = 1 + (0.5 - 1) ** 2 + 1 + (1.25**0.5 - 2) ** 2
    assert float(mismatch(norm, given)) == pytest.approx(expected)


def test_targets_are_mixtures_of_two_classes() -> None:
    targets = mixtures(200, 5, torch.Generator().manual_seed(0))
    assert torch.allclose(targets.sum(dim=1), torch.ones(200))
    assert set((targets > 0).sum(dim=1).tolist()) <= {1, 2}
    assert 0.4 < float(targets.max(dim=1).values.mean()) < 0.95


def test_synthesised_inputs_fit_their_student(dataset: DataSet) -> None:
    student = network(dataset.inputs, 1)

    def loss(how: Synthesis) -> float:
        images = synthesise(student, dataset.inputs, how)
        assert images.shape == (20, 1, 8, 8)
        seen: list[float] = []
        handles = [
            norm.register_forward_pre_hook(lambda module, given: seen.append(float(mismatch(module, given[0]))))
            for norm in norms_of(student)
        ]
        logits_of(student, images)
        for handle in handles:
            handle.remove()
        return sum(seen)

    before, after = (loss(Synthesis(count=20, steps=steps)) for steps in (1, 60))
    assert after < 0.6 * before  # statistics that no data had cannot be met
    assert not any(norm._forward_pre_hooks for norm in norms_of(student)), "nothing of it stays in the student"


def test_synthesis_is_its_seed_alone(dataset: DataSet) -> None:
    student = network(dataset.inputs, 1)
    torch.manual_seed(7)
    first = synthesise(student, dataset.inputs, FEW)
    torch.manual_seed(8)
    assert torch.equal(first, synthesise(student, dataset.inputs, FEW))
    assert not torch.equal(first, synthesise(student, dataset.inputs, dataclasses.replace(FEW, seed=1)))


# ------------------------------------------------------------------------------------------------------------ asking


def test_everybody_is_asked_the_same(dataset: DataSet) -> None:
    asked = lineup(dataset)
    outputs, inputs = ask(asked, Asked(pool=30, synthesis=FEW))
    assert [pool.kind for pool in outputs.pools] == ["real", "synthesised", "gaussian"]
    assert [pool.students_SPD.shape for pool in outputs.pools] == [(15, 30, 10), (15, 12, 10), (15, 30, 10)]
    assert [pool.teachers_GKPD.shape for pool in outputs.pools] == [(1, 3, 30, 10), (15, 3, 12, 10), (1, 3, 30, 10)]
    real, synthesised, _ = outputs.pools
    assert real.sample_ids_P is not None
    test = dataset.split("full").test
    positions = torch.isin(test.sample_ids_N, torch.from_numpy(real.sample_ids_P)).nonzero()[:, 0]
    images = test.images(positions)
    assert np.array_equal(real.teachers_of(4)[1], logits_of(asked.teachers[1].network, images))
    assert np.array_equal(real.students_SPD[4], logits_of(asked.students[4].load(), images))
    own = torch.from_numpy(inputs["s4"])
    assert np.array_equal(synthesised.teachers_of(4)[1], logits_of(asked.teachers[1].network, own))
    assert np.array_equal(synthesised.students_SPD[4], logits_of(asked.students[4].load(), own))
    assert not np.array_equal(inputs["s4"], inputs["s5"])


def test_students_that_are_almost_their_teacher_are_traced(dataset: DataSet) -> None:
    outputs, _ = ask(lineup(dataset), Asked(pool=60, synthesis=FEW))
    detection = judge(outputs, counts=(1, 12, 60), repeats=3)
    for kind in ("real", "gaussian", "synthesised"):
        rate = detection.last("distilled", "kl", kind)
        assert rate is not None and rate.accuracy == 1, kind


def test_the_same_numbers_each_time(dataset: DataSet) -> None:
    first, again = (ask(lineup(dataset), Asked(pool=10, synthesis=FEW))[0] for _ in range(2))
    for one, other in zip(first.pools, again.pools, strict=True):
        assert np.array_equal(one.students_SPD, other.students_SPD)
        assert np.array_equal(one.teachers_GKPD, other.teachers_GKPD)
    other = ask(lineup(dataset), Asked(pool=10, synthesis=FEW, seed=1))[0]
    assert not np.array_equal(first.pools[0].students_SPD, other.pools[0].students_SPD)


def test_threads_are_as_they_were(dataset: DataSet) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ask(lineup(dataset), Asked(kinds=["gaussian"], pool=4))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_without_batchnorm_nothing_is_synthesised_and_a_sentence_says_so(dataset: DataSet) -> None:
    asked = lineup(dataset)
    plain = WithoutNorms(dataset.inputs).eval().requires_grad_(False)
    asked.add_student(Student("plain", "plain", "distilled", "t0", lambda: plain))
    outputs, inputs = ask(asked, Asked(pool=10, synthesis=FEW))
    assert [len(pool.students) for pool in outputs.pools] == [16, 15, 16]
    assert "plain" not in inputs
    assert (
        "synthesised inputs: 1 student left out, without BatchNorm there are no statistics to synthesise from (plain)"
        in outputs.notes
    )
    asked.students = asked.students[-1:]
    with pytest.raises(AkdtuneError, match=r"nothing could be asked: .* without BatchNorm"):
        ask(asked, Asked(kinds=["synthesised"], synthesis=FEW))


def test_controls_with_equal_weights_are_one_and_nobodys(dataset: DataSet) -> None:
    asked = lineup(dataset)
    asked.add_student(dataclasses.replace(asked.students[12], name="again", teacher="t2"))
    outputs, _ = ask(asked, Asked(kinds=["gaussian"], pool=10))
    assert len(outputs.students) == 15
    assert {facts.name: facts.teacher for facts in outputs.students}["c0"] is None
    assert any("1 student with the weights of another one, asked once; controls" in note for note in outputs.notes)
    control = judge(outputs, counts=(10,)).last("control", "kl", "gaussian")
    assert control is not None and control.students == 2


def test_equal_weights_with_two_teachers_are_refused(dataset: DataSet) -> None:
    asked = lineup(dataset)
    asked.add_student(dataclasses.replace(asked.students[0], name="again", teacher="t1"))
    with pytest.raises(AkdtuneError, match=r"s0 and again have the same weights, and are said to be distilled \(t0\)"):
        ask(asked, Asked(kinds=["gaussian"], pool=10))


def spoiled(built: Network) -> Network:
    built.fc.weight.data[0, 0] = torch.nan
    return built


def test_answers_that_are_not_finite(dataset: DataSet) -> None:
    asked = lineup(dataset)
    nan = spoiled(network(dataset.inputs, 70))
    asked.add_student(Student("nan", "cnn", "distilled", "t0", lambda: nan))
    outputs, _ = ask(asked, Asked(kinds=["gaussian"], pool=10))
    assert "nan: left out, what it says is not finite" in outputs.notes
    assert "nan" not in outputs.pools[0].students
    asked.add_teacher(Teacher(TeacherFacts("worst", "cnn", "other"), nan))
    with pytest.raises(AkdtuneError, match="teacher worst: what it says of gaussian inputs is not finite"):
        ask(asked, Asked(kinds=["gaussian"], pool=10))


# ------------------------------------------------------------------------------------------------------------ lineup


def test_candidates_are_told_apart_by_their_weights(dataset: DataSet) -> None:
    asked = Lineup(dataset)
    one, other = network(dataset.inputs, 0), network(dataset.inputs, 1)
    assert asked.add_teacher(Teacher(TeacherFacts("run", "cnn", "1"), one)) == "run"
    assert asked.add_teacher(Teacher(TeacherFacts("again", "cnn", "1"), one)) == "run"
    with pytest.raises(AkdtuneError, match="needs two at least, with other weights; there is one: run"):
        asked.check()
    assert asked.add_teacher(Teacher(TeacherFacts("run", "cnn", "2"), other)) == "run#2"
    asked.left_out("runs/small", ["pruned, not done", "no checkpoint", "pruned, not done"])
    with pytest.raises(AkdtuneError, match="there is no student to ask") as error:
        asked.check()
    assert "runs/small: 2 students left out: pruned, not done" in str(error.value)
