"""Random streams with names: nobody's draws depend on what others draw, and trials of one seed share theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.methods import Method
from akdtune.methods.crd import CRD
from akdtune.randomness import STREAMS, derived_seed
from akdtune.registry import may_draw, typed
from akdtune.settings.data import DataSettings
from akdtune.signals import Batch, Signals, Target, Terms, Views
from akdtune.training.config import TrialConfig
from akdtune.training.objective import Objective
from akdtune.training.trial import Trial
from akdtune.views.tekap import TeKAP
from tests import small_world
from tests.small_trials import ANGULAR, DIGITS, configured, numbers, trained
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, signals

DATA = DataSettings(**DIGITS)
KD, CRD64, MLKD = {"name": "kd"}, {"name": "crd", "num_negatives": 64}, {"name": "mlkd"}
TEKAP = {"name": "tekap", "variant": "released"}

Config = Callable[..., TrialConfig]


@pytest.fixture
def config() -> Config:
    def make(views: dict[str, Any], *methods: dict[str, Any], **training: Any) -> TrialConfig:
        return configured(DATA, trained(DATA), views, methods, **{"epochs": 2, **training})

    return make


def negatives(of: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What crd compares with in each step of a trial."""
    drawn: list[Tensor] = []
    draw = CRD.negatives_BJ

    def noting(method: CRD, batch: Batch) -> Tensor:
        drawn.append(draw(method, batch))
        return drawn[-1]

    with monkeypatch.context() as patch:
        patch.setattr(CRD, "negatives_BJ", noting)
        list(Trial(of).run())
    return drawn


def share(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Of the negatives of the same step and image, how many are the same."""
    assert len(one) == len(other) > 10
    equal = [(a[:, :, None] == b[:, None, :]).any(dim=2).double().mean() for a, b in zip(one, other, strict=True)]
    return float(torch.stack(equal).mean())


def test_crd_has_the_same_negatives_under_any_views_and_in_any_sum(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = negatives(config({"name": "none"}, CRD64), monkeypatch)
    for of in (
        config(ANGULAR, CRD64), config(TEKAP, CRD64), config({"name": "none"}, KD, CRD64),
        config(TEKAP, CRD64, KD), config({"name": "random", "resample": "step"}, MLKD, CRD64),
    ):  # fmt: skip
        assert share(plain, negatives(of, monkeypatch)) == 1.0
    other = config({"name": "none"}, CRD64)
    other = replace(other, seeds=other.seeds.model_copy(update={"noise": 1}))
    assert share(plain, negatives(other, monkeypatch)) == pytest.approx(64 / 270, abs=0.01)


class Drawing(Method):
    """Its term is what it draws."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        return {"drawn": torch.rand((), generator=batch.generator) + 0 * student.logits_BK.sum()}

    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"drawn": 1.0}


def test_a_method_draws_the_same_in_any_order_and_beside_any_other() -> None:
    def drawn(*names: str) -> dict[str, float]:
        objective = Objective({name: Drawing() for name in names}, small_world.views("tekap"), 1.0)
        streams = tuple((name, torch.Generator().manual_seed(derived_seed(name))) for name in objective.streams)
        now = replace(batch(), streams=streams)
        loss = objective.train()(signals(1, STUDENT_DIM), signals(2, TEACHER_DIM), now)
        return {name: float(loss.terms[f"{name}.drawn"].detach()) for name in names}

    assert drawn("one", "other") == drawn("other", "one")
    assert drawn("one", "other")["other"] == drawn("other")["other"] != drawn("one")["one"]


def of_the_student(of: TrialConfig) -> list[Tensor]:
    """What a student would draw in each of its passes, as dropout in it does."""
    trial, drawn = Trial(of), []
    forward = trial._forward

    def drawing(images_BCHW: Tensor, maps: bool) -> Signals:
        drawn.append(torch.rand(4))
        return forward(images_BCHW, maps)

    trial._forward = drawing
    list(trial.run())
    return drawn


def test_a_student_draws_the_same_whatever_views_and_methods_draw(config: Config) -> None:
    plain = of_the_student(config({"name": "none"}, KD))
    assert len(plain) == 20
    for of in (config(ANGULAR, KD, CRD64), config(TEKAP, CRD64)):
        assert all(map(torch.equal, plain, of_the_student(of)))


def test_views_draw_other_numbers_than_the_student_and_than_each_method(config: Config) -> None:
    trial = Trial(config(TEKAP, KD, CRD64))
    inputs = next(trial._batches("student", 1, lambda: False))
    names = [name for name, _ in inputs.batch.streams]
    assert names == ["views", "views/strong", "method/kd", "method/crd"]
    assert torch.initial_seed() == derived_seed("noise", trial.config.seeds.noise, "student", 1)
    seeds = [generator.initial_seed() for generator in inputs.batch.generators]
    assert seeds == [derived_seed("noise", trial.config.seeds.noise, "student", 1, name) for name in names]


def test_views_draw_the_same_for_the_images_whether_a_method_reads_strong_ones_too(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, drawn = TeKAP.views, []

    def noting(tekap: TeKAP, teacher: Signals, generator: torch.Generator, student: Signals | None = None) -> Views:
        if tekap.training:
            drawn.append(torch.Generator().set_state(generator.get_state()).initial_seed())
            drawn.append(float(torch.rand(1, generator=torch.Generator().set_state(generator.get_state()))))
        return views(tekap, teacher, generator, student)

    monkeypatch.setattr(TeKAP, "views", noting)
    list(Trial(config(TEKAP, KD)).run())
    of_kd = drawn[:]
    drawn.clear()
    list(Trial(config(TEKAP, KD, MLKD)).run())
    weak = [value for pair in range(0, len(drawn), 4) for value in drawn[pair : pair + 2]]
    assert weak == of_kd and len(drawn) == 2 * len(of_kd)
    assert not {*drawn[2::4], *drawn[3::4]} & {*of_kd}, "strong images have noise of their own"


def test_a_batch_is_given_with_the_stream_of_who_draws() -> None:
    plain = batch()
    assert plain.given_to("views") is plain
    assert plain.generators == [plain.generator]
    one, other = torch.Generator(), torch.Generator()
    named = replace(plain, generator=one, streams=(("a", one), ("b", other)))
    assert named.generators == [one, other]
    given = named.given_to("b")
    assert given.generator is other
    assert given.positions_B is plain.positions_B
    with pytest.raises(KeyError):
        named.given_to("c")


def test_who_is_left_out_is_the_same_for_strong_images_though_they_have_a_stream_of_their_own() -> None:
    objective = Objective({"mlkd": small_world.method("mlkd")}, small_world.views("multi_teacher", drop=2), 1.0)
    teacher = signals(2, TEACHER_DIM)
    assert teacher.strong is not None
    kept: list[list[int]] = []
    teach = objective.views.teach

    def noting(of: Signals, student: Signals, batch: Batch) -> Any:
        teaching = teach(of, student, batch)
        only = teaching.logit_targets[0].target.logits_BMK[:, 0]
        kept.append([torch.equal(one.logits_BK, only) for one in (of, *of.others)].index(True))  # type: ignore[arg-type]
        return teaching

    objective.views.teach = noting  # type: ignore[method-assign]
    streams = tuple((name, torch.Generator().manual_seed(seed)) for seed, name in enumerate(objective.streams))
    for _ in range(12):
        objective.train()(signals(1, STUDENT_DIM), teacher, replace(batch(), streams=streams))
    assert kept[0::2] == kept[1::2]
    assert len(set(map(str, kept))) == 3


# ------------------------------------------------------------------------------------------- states of older streams


def test_a_state_of_the_single_stream_goes_on_and_says_so(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    of = config(TEKAP, KD)
    whole = list(Trial(of).run())
    assert whole[0].state["streams"] == STREAMS
    old = {name: value for name, value in whole[0].state.items() if name != "streams"}
    resumed = Trial(of)
    capsys.readouterr()
    assert numbers(list(resumed.run(old))) == numbers(whole)[1:]
    assert (resumed.streams, resumed.state("student", 2)["streams"]) == (1, 1), "it is no trial of the named streams"
    line = "warning: epochs so far drew before random streams had names, those to come draw from named ones\n"
    assert capsys.readouterr().out == line


def test_a_state_of_a_trial_that_never_draws_goes_on_in_silence(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = Trial(config({"name": "none"}, KD))
    state = {name: value for name, value in trial.state("student", 1).items() if name != "streams"}
    capsys.readouterr()
    trial.load_state(state)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("views", {"name": "none"}, False), ("views", TEKAP, True), ("views", ANGULAR, True),
        ("views", {"name": "sakd_style"}, False), ("views", {"name": "multi_teacher"}, False),
        ("views", {"name": "multi_teacher", "drop": 1}, True), ("views", {"name": "random", "resample": "step"}, True),
        ("views", {"name": "random", "resample": "never"}, False),
        ("views", {"name": "matched", "of": TEKAP}, True),
        ("views", {"name": "matched", "of": {"name": "sakd_style"}}, False),
        ("methods", KD, False), ("methods", CRD64, True),
    ],
)  # fmt: skip
def test_components_say_whether_they_draw(kind: Any, given: dict[str, Any], expected: bool) -> None:
    assert may_draw(kind, given["name"], typed(kind, given)) is expected
