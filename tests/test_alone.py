"""One method or one view augmenter in a notebook, without a trial; and the examples in their docstrings."""

from __future__ import annotations

import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.cli import components
from akdtune.errors import AkdtuneError, SettingsError
from akdtune.methods import Method
from akdtune.methods.crd import CRD
from akdtune.methods.dkd import DKD
from akdtune.methods.fitnet import FitNet
from akdtune.methods.kd import KD
from akdtune.registry import Component, Kind, kept, lookup, names, register
from akdtune.signals import SMALL_STAGES, Batch, Signals, Target, Teaching
from akdtune.views import ViewAugmenter
from akdtune.views.angular import Angular
from akdtune.views.random import Random
from tests import small_world

TAUGHT: tuple[Kind, ...] = ("methods", "views")
COMPONENTS = [(kind, name) for kind in TAUGHT for name in names(kind)]


def run_example(component: type[Component]) -> dict[str, Any]:
    """What the example of a component leaves behind, run as it is shown: three lines and their imports."""
    assert len(components.example(component)) == 3, f"{component.__name__}: an example of three lines"
    shown = "\n".join(components.described(component)).partition("Example:\n")[2]
    left: dict[str, Any] = {}
    test = doctest.DocTestParser().get_doctest(shown, left, component.__name__, None, None)
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, clear_globs=False)
    assert runner.failures == 0, f"{component.__name__}: its example raises"
    return test.globs


@pytest.mark.parametrize(("kind", "name"), COMPONENTS, ids=[f"{kind}:{name}" for kind, name in COMPONENTS])
def test_the_example_in_the_docstring_runs(kind: Kind, name: str) -> None:
    torch.manual_seed(0)
    left = run_example(lookup(kind, name))
    if kind == "views":
        assert isinstance(left["teaching"], Teaching)
        assert all(torch.isfinite(target.target.logits_BMK).all() for target in left["teaching"].logit_targets)
    elif name == "student_only":
        assert left["terms"] == {}
    else:
        assert left["loss"].ndim == 0 and torch.isfinite(left["loss"])


def test_components_are_built_without_symbolic_algebra() -> None:
    """torch loads sympy, for a second, to make an empty layer out of one on the device `meta`."""
    code = (
        "import sys; from akdtune.registry import lookup, names\n"
        "others = {'views': {'others_dims': (8,)}, 'methods': {}}\n"
        "for kind in ('methods', 'views'):\n"
        "    for name in names(kind):\n"
        "        lookup(kind, name).alone(**others[kind])\n"
        "print(sorted({'sympy', 'torch._dynamo'} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


class Shown(Method):
    """Without an example."""


class Wrong(Method):
    """With a wrong one.

    Example:
        >>> wrong = Wrong.alone(num_classes=10)
        >>> student = Signals.random(8)
        >>> loss = wrong.terms(student, Target.of(student), Batch.of(torch.arange(8)))
    """


def test_a_missing_example_and_one_that_raises_are_seen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match="an example of three lines"):
        run_example(Shown)
    with pytest.raises(AssertionError, match="its example raises"):
        run_example(Wrong)
    assert "NotImplementedError" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in names("selections") if lookup("selections", name).selects])
def test_the_example_of_a_selection_runs(name: str) -> None:
    torch.manual_seed(0)
    rows_R = run_example(lookup("selections", name))["rows"]
    assert rows_R.tolist() == sorted({*rows_R.tolist()}) and len(rows_R) <= 8


@pytest.mark.parametrize(("base", "kind"), [(Method, "methods"), (ViewAugmenter, "views")])
def test_no_component_has_a_setting_that_alone_takes_for_itself(base: Any, kind: Kind) -> None:
    own = set(inspect.signature(base.alone).parameters) - {"settings"}
    for name in names(kind):
        assert not own & set(lookup(kind, name).Settings.model_fields), name


def test_a_method_alone_is_the_method_of_a_trial() -> None:
    student, teacher = small_world.signals(1, small_world.STUDENT_DIM), small_world.signals(2, small_world.TEACHER_DIM)
    alone = DKD.alone(num_classes=small_world.CLASSES, beta=2.0)
    of_trial = small_world.method("dkd", beta=2.0)
    given = student, Target.of(teacher), small_world.batch()
    assert alone.terms(*given) == of_trial.terms(*given)
    assert alone.weights(30) == of_trial.weights(30)


def test_views_alone_follow_their_seed_and_settings() -> None:
    first, again, other = (Angular.alone(num_views=2, init_seed=seed) for seed in (1, 1, 2))
    weights = [torch.cat([p.flatten() for p in views.parameters()]) for views in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    teacher = Signals.random(4)
    assert first.views(teacher, torch.Generator()).num_views == 2
    assert Random.alone(seed=5).seed == 5, "the views' own seed is a setting of theirs"


def test_shapes_labels_and_weights_of_ones_own() -> None:
    stages = ((3, 8, 8), (4, 8, 8), (6, 4, 4))
    fitnet = FitNet.alone(5, student_stages=stages, teacher_stages=SMALL_STAGES, hint_stage=2)
    student, teacher = Signals.random(4, num_classes=5, stages=stages), Signals.random(4, num_classes=5)
    assert torch.isfinite(fitnet.terms(student, Target.of(teacher), Batch.of(torch.arange(4)))["fitnet"])
    crd = CRD.alone(3, student_dim=5, teacher_dim=7, train_labels_N=torch.tensor([0, 1, 2, 0, 1, 2]))
    assert crd.student_bank_NE.shape == (6, 128)
    assert (crd.embed_student.in_features, crd.embed_teacher.in_features) == (5, 7)
    weight_KC, bias_K = torch.ones(3, 7), torch.ones(3)
    dropout = lookup("views", "dropout").alone(3, teacher_dim=7, teacher_classifier=(weight_KC, bias_K))
    assert torch.equal(dropout.weight_KC, weight_KC)


def test_unknown_settings_and_values_that_do_not_fit_are_refused_in_one_message() -> None:
    with pytest.raises(SettingsError) as caught:
        KD.alone(temprature=4.0, weight=-1)
    assert str(caught.value) == (
        "2 problems:\n"
        "method kd.weight: must be greater than or equal to 0, got -1\n"
        "method kd.temprature: unknown setting 'temprature'; did you mean 'temperature'? "
        "(allowed: divergence, jsd_beta, standardize, temperature, weight)"
    )
    with pytest.raises(SettingsError, match=r"^view angular: dropout needs one rate per view \(2\), got 1$"):
        Angular.alone(num_views=2, dropout=[0.1])
    with pytest.raises(SettingsError) as caught:
        Angular.alone(dropout="much", constraint="hing")
    assert str(caught.value) == (
        "2 problems:\n"
        "view angular.constraint: must be 'infonce_clip', 'infonce_shift' or 'hinge', got 'hing'\n"
        "view angular.dropout: must be a valid number, unable to parse string as a number or a valid list, got 'much'"
    )
    with pytest.raises(AkdtuneError, match="no hint_stage 9 in these networks"):
        FitNet.alone(hint_stage=9)


def test_a_class_that_is_not_registered_can_stand_alone() -> None:
    class Bare(Method):
        """Nothing."""

    assert isinstance(Bare.alone(), Bare)
    with pytest.raises(SettingsError, match=r"^method Bare\.weight: unknown setting 'weight': it takes no settings$"):
        Bare.alone(weight=1.0)
    with kept():
        register("bare")(Bare)
        with pytest.raises(SettingsError, match=r"^method bare\.weight"):
            Bare.alone(weight=1.0)


def test_signals_and_batches_out_of_tensors_of_ones_own() -> None:
    logits_BK, maps = torch.randn(4, 3), [torch.randn(4, 2, 5, 5), torch.randn(4, 6, 3, 3)]
    plain = Signals.of(logits_BK)
    assert plain.pooled_BC.shape == (4, 0) and plain.stages is None
    assert Signals.of(logits_BK, torch.ones(4, 6), stages=maps).stages == tuple(maps)
    batch = Batch.of(torch.tensor([2, 0, 1]), epoch=7, seed=3)
    assert (batch.epoch, batch.generator.initial_seed(), batch.repeated) == (7, 3, 0)
    assert torch.equal(batch.positions_B, torch.arange(3)) and torch.equal(batch.sample_ids_B, torch.arange(3))
    moved = Batch.of(torch.tensor([2, 0]), positions_B=torch.tensor([8, 9]), repeated=1)
    assert (moved.positions_B.tolist(), moved.sample_ids_B.tolist(), moved.repeated) == ([8, 9], [0, 1], 1)


def test_random_signals_hang_together() -> None:
    torch.manual_seed(1)
    said = Signals.random(4, num_classes=3, strong=True)
    assert said.classifier is not None and said.last_map is not None and said.stages is not None and said.preact_stages
    torch.testing.assert_close(said.last_map.mean(dim=(2, 3)), said.pooled_BC)
    torch.testing.assert_close(torch.nn.functional.linear(said.pooled_BC, *said.classifier), said.logits_BK)
    assert [tuple(maps.shape[1:]) for maps in said.stages] == list(SMALL_STAGES)
    assert torch.equal(said.preact_stages[0].relu(), said.stages[0])
    assert said.strong is not None and not torch.equal(said.strong.logits_BK, said.logits_BK)
    torch.manual_seed(1)
    assert torch.equal(Signals.random(4, num_classes=3).logits_BK, said.logits_BK)


def test_a_target_of_signals_holds_what_they_say_about_strong_images() -> None:
    said = Signals.random(4, strong=True)
    target = Target.of(said, strong=True)
    assert said.strong is not None and target.strong is not None
    assert torch.equal(target.strong.logits_BMK[:, 0], said.strong.logits_BK)
    assert Target.of(said).strong is None and Target.of(said.strong, strong=True).strong is None


def grad_of(loss: Tensor, tensor: Tensor) -> Tensor:
    """The gradient of a loss to a tensor."""
    (gradient,) = torch.autograd.grad(loss, tensor)
    return gradient


def test_a_training_loop_of_ones_own() -> None:
    torch.manual_seed(0)
    kd, student_BK = KD.alone(num_classes=10, temperature=4.0), torch.randn(8, 10).requires_grad_()
    teacher = Signals.of(torch.randn(8, 10))
    terms = kd.terms(Signals.of(student_BK), Target.of(teacher), Batch.of(torch.arange(8)))
    loss = torch.stack([weight * terms[name] for name, weight in kd.weights(1).items()]).sum()
    moved = (student_BK - 0.5 * grad_of(loss, student_BK)).detach()
    after = kd.terms(Signals.of(moved), Target.of(teacher), Batch.of(torch.arange(8)))
    assert after["kd"] < terms["kd"]


def test_the_program_in_the_documentation_runs(repository: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (repository / "docs" / "components.md").read_text(), flags=re.DOTALL)
    (code,) = [block for block in blocks if ".alone(" in block]
    left: dict[str, Any] = {}
    exec(compile(code, "docs/components.md", "exec"), left)
    assert left["plain"].keys() == {"tckd", "nckd"}
    assert torch.isfinite(left["loss"])
