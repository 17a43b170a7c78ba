"""The step: precision, memory layout, TF32, compilation, and nothing in it that waits for the device."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from akdtune import devices, networks, registry
from akdtune.devices import float32_as_set
from akdtune.errors import SettingsError
from akdtune.methods.crd import CRD
from akdtune.networks import Network
from akdtune.registry import ComponentSettings, NoSettings, kept, register
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import CacheSettings
from akdtune.signals import InputSpec, Signals, Target
from akdtune.study import spec
from akdtune.study.ids import cell_hash
from akdtune.study.schema import json_schema
from akdtune.study.written import export_yaml
from akdtune.training import evaluation
from akdtune.training import trial as trial_loop
from akdtune.training.config import TrialConfig
from akdtune.training.loop import Epoch, Interrupted
from akdtune.training.objective import Loss
from akdtune.training.trial import Trial
from tests import small_trials, small_world
from tests.small_trials import CPU, DIGITS, configured, trained

CUDA = torch.device("cuda")
DATA = DataSettings(**DIGITS, limit_per_class=100)
ANGULAR = {**small_trials.ANGULAR, "warmup_epochs": 1}

Configure = Callable[..., TrialConfig]


@pytest.fixture
def config() -> Configure:
    def make(*methods: str, views: dict[str, Any] | None = None, student: Any = None, **settings: Any) -> TrialConfig:
        named = [{"name": name} for name in methods or ("kd",)]
        shown = views or {"name": "none"}
        return configured(DATA, trained(DATA), shown, named, student=student, **{"epochs": 2, **settings})

    return make


def numbers(epochs: list[Epoch]) -> list[dict[str, Any]]:
    return [row for _, _, row in small_trials.numbers(epochs)]


def stopped_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(steps))
    return lambda: next(asked, None) is None


def steps(trial: Trial, number: int) -> None:
    """The first steps of the first epoch."""
    with pytest.raises(Interrupted):
        trial.student_epoch(1, stopped_after(number))


# ------------------------------------------------------------------------------------------------------ precision


def dtypes(trial: Trial) -> dict[bool, set[torch.dtype]]:
    """What the student's convolutions return from now on, by whether it trains."""
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    for module in trial.student.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, _, made: seen[module.training].add(made.dtype))
    return seen


def test_bf16_is_the_students_training_alone(config: Configure) -> None:
    trial = Trial(config("kd", "crd", views=ANGULAR, precision="bf16"))
    seen = dtypes(trial)
    losses: list[Loss] = []
    trial.objective.register_forward_hook(lambda _, __, loss: losses.append(loss))
    list(trial.run())
    assert losses
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}
    for loss in losses:
        of_terms = {term.dtype for term in loss.terms.values()}
        assert {loss.total.dtype, loss.logits_BK.dtype, *of_terms} == {torch.float32}
    held = [*trial.student.state_dict().values(), *trial.objective.state_dict().values()]
    held += [value for state in trial.optimizer.state.values() for value in state.values() if value is not None]
    assert {tensor.dtype for tensor in held if tensor.is_floating_point()} == {torch.float32}


def test_heads_learn_the_same_in_both_precisions(config: Configure) -> None:
    rows = [numbers(list(Trial(config(views=ANGULAR, precision=precision)).run())) for precision in ("fp32", "bf16")]
    assert len(rows[0]) == 3
    of_heads = [[{key: row[key] for key in row if key.startswith("loss.views.")} for row in epochs] for epochs in rows]
    assert of_heads[0] == of_heads[1]
    assert rows[0] != rows[1]
    for full, half in zip(rows[0][1:], rows[1][1:], strict=True):
        for key in ("loss.ce", "loss.kd"):
            assert full[key] == pytest.approx(half[key], rel=0.1)


@pytest.mark.parametrize(
    ("precision", "compute", "key"),
    [("bf16", None, "training.precision"), ("bf16", "fp32", "training.precision"),
     ("fp32", "bf16", "teacher_cache.compute"), ("fp32", None, "")],
)  # fmt: skip
def test_a_processor_without_bfloat16_is_warned_of(
    config: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], precision: str,
    compute: Any, key: str,
) -> None:  # fmt: skip
    of = replace(config("kd", precision=precision), teacher_cache=CacheSettings(compute=compute))
    Trial(of)
    assert "warning" not in capsys.readouterr().out or not devices.has_bfloat16()
    monkeypatch.setattr(devices, "has_bfloat16", lambda: False)
    Trial(of)
    said = f"warning: {key}: this processor has no bfloat16, bf16 is many times slower here than fp32\n"
    assert capsys.readouterr().out == (said if key else "")


@pytest.mark.parametrize("method", ["at", "reviewkd", "simkd", "ofd", "mlkd"])
def test_live_teachers_follow_the_precision_and_gradients_do_not(config: Configure, method: str) -> None:
    of = config(method, epochs=1)
    rows, seen = {}, {}
    for compute in ("fp32", "bf16"):
        trial = Trial(replace(of, teacher_cache=CacheSettings(compute=compute, max_mib=0)))
        asked_for: list[Any] = []
        trial.objective.register_forward_pre_hook(lambda _, given, of=asked_for: of.append(given[1]))
        rows[compute] = numbers(list(trial.run()))[0]
        seen[compute] = asked_for[0]
        gradients = [parameter.grad for parameter in (*trial.student.parameters(), *trial.objective.parameters())]
        assert {each.dtype for each in gradients if each is not None} == {torch.float32}
    told = [value for value in rows["fp32"] if value.startswith(f"loss.{method}")]
    assert told
    for key in told:
        assert rows["bf16"][key] == pytest.approx(rows["fp32"][key], rel=0.1), key
    exact, given = seen["fp32"], seen["bf16"]
    for name in ("stages", "preact_stages"):
        for mine, expected in zip(getattr(given, name) or (), getattr(exact, name) or (), strict=True):
            assert mine.dtype == torch.float32 and not torch.equal(mine, expected)
            assert float((mine - expected).norm()) <= 0.03 * float(expected.norm())
    if method == "mlkd":
        assert given.strong.logits_BK.dtype == torch.float32
        assert not torch.equal(given.strong.logits_BK, exact.strong.logits_BK)
    else:
        assert all(map(torch.equal, given.classifier, exact.classifier))


def test_bf16_is_reproducible_and_resumes(config: Configure) -> None:
    of = config("kd", "crd", precision="bf16")
    whole = list(Trial(of).run())
    assert numbers(list(Trial(of).run())) == numbers(whole)
    assert numbers(list(Trial(of).run(whole[0].state))) == numbers(whole)[1:]


@pytest.mark.parametrize("method", ["at", "vid", "reviewkd", "simkd", "mlkd"])
def test_methods_on_maps_and_strong_images_train_in_bf16(config: Configure, method: str) -> None:
    trials = [Trial(config(method, precision=precision, epochs=1)) for precision in ("fp32", "bf16")]
    rows = [numbers(list(trial.run()))[0] for trial in trials]
    losses = {key for key in rows[0] if key.startswith(f"loss.{method}")}
    assert losses
    for key in losses:
        assert rows[1][key] == pytest.approx(rows[0][key], rel=0.1)


STUDY: dict[str, Any] = {
    "study": "small",
    "data": {"name": "digits", "validation": 600},
    "teacher": {"network": "resnet20", "epochs": 4},
    "student": {"network": "resnet8"},
    "method": {"name": "kd", "weight": {"uniform": [0.1, 4.0]}},
    "training": {"epochs": 4},
    "search": {"trials": 6},
}

Load = Callable[..., spec.Study]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)

    def of(*overrides: str, text: str = "", **sections: Any) -> spec.Study:
        Path("study.yaml").write_text(text or yaml.safe_dump({**STUDY, **sections}), encoding="utf-8")
        return spec.load("study.yaml", overrides)

    return of


VALUES: dict[str, list[Any]] = {"precision": ["fp32", "bf16"], "tf32": [True, False], "compile": [True]}


@pytest.mark.parametrize("key", VALUES)
def test_all_trials_of_a_study_compute_alike(load: Load, key: str) -> None:
    domain = {"choice": VALUES[key]}
    with pytest.raises(SettingsError) as raised:
        load(training={"epochs": 4, key: domain})
    (problem,) = raised.value.problems
    assert f"training.{key}: cannot be searched over" in str(problem)
    schema = json_schema()["properties"]["training"]["anyOf"][0]["anyOf"][0]["properties"]
    assert "anyOf" not in schema[key] and "anyOf" in schema["lr"]


def test_a_precision_hidden_in_a_choice_is_refused(load: Load) -> None:
    options = [{"epochs": 4, "precision": precision} for precision in ("fp32", "bf16")]
    with pytest.raises(SettingsError, match="training: has several values of precision") as raised:
        load(training={"choice": options})
    assert len(raised.value.problems) == 1
    load(training={"choice": [{"epochs": 4, "precision": "bf16", "lr": rate} for rate in (0.1, 0.2)]})


def test_precision_is_part_of_what_a_trial_is_and_the_default_of_none(load: Load) -> None:
    def cell(*overrides: str) -> str:
        settings = load(*overrides).arms[0].centre().settings
        return cell_hash(settings, "d", "t")

    base = load().arms[0].centre().settings
    assert base["training"]["precision"] == "fp32"
    before = {key: item for key, item in base["training"].items() if key not in ("precision", "tf32", "compile")}
    assert cell_hash({**base, "training": before}, "d", "t") == cell() == cell("training.compile=true")
    assert len({cell(), cell("training.precision=bf16"), cell("training.tf32=true")}) == 3


def test_an_exported_finalist_is_repeated_in_fp32_by_one_override(load: Load) -> None:
    study = load("training.precision=bf16")
    text = export_yaml(study.resolved(), study.arms[0].random(0).settings)
    assert load(text=text).arms[0].centre().settings["training"]["precision"] == "bf16"
    again = load("training.precision=fp32", text=text).arms[0].centre().settings
    assert again == {**study.arms[0].random(0).settings, "training": again["training"]}
    assert again["training"]["precision"] == "fp32"


# --------------------------------------------------------------------------------------------------------- layout


FAMILIES = ["cnn", "resnet8", "resnet8x4", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet18"]


def by_layout(name: str, seed: int = 0) -> tuple[Network, Network]:
    """A network as it is built, and the same with torch's own layout."""
    inputs = InputSpec(3, 32, 10)
    built = networks.build(name, inputs, seed)
    plain = networks.build(name, inputs, seed)
    plain.to(memory_format=torch.contiguous_format)
    return built, plain


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last_changes_rounding_only(name: str) -> None:
    built, plain = by_layout(name)
    assert networks.layout(built) == torch.channels_last
    assert networks.layout(plain) == torch.contiguous_format
    generator = torch.Generator().manual_seed(0)
    images_BCHW, labels_B = torch.randn(4, 3, 32, 32, generator=generator), torch.arange(4)
    results = []
    for network in (built, plain):
        said = network(images_BCHW.contiguous(memory_format=networks.layout(network)))
        loss = nn.functional.cross_entropy(said.logits_BK, labels_B)
        loss.backward()
        results.append((loss.item(), network.classifier()[0].grad))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 8, 3), (3, 8, 1), (1, 8, 3)])
def test_the_layout_is_known_of_all_kernels(shape: tuple[int, int, int]) -> None:
    assert networks.layout(nn.Linear(3, 3)) == torch.contiguous_format
    kernel = nn.Conv2d(*shape)
    for expected in (torch.contiguous_format, torch.channels_last, torch.contiguous_format):
        assert networks.layout(copy.deepcopy(kernel.to(memory_format=expected))) == expected


class Flattening(Network):
    """A plugin's network with one convolution."""

    offers: ClassVar[frozenset[str]] = frozenset()
    flat: ClassVar[Callable[[Tensor], Tensor]]

    def __init__(self, settings: ComponentSettings, inputs: InputSpec) -> None:
        super().__init__(settings, inputs)
        self.conv, self.norm = nn.Conv2d(inputs.channels, 4, 3), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * (inputs.size - 2) ** 2, inputs.num_classes)
        self.pooled_dim = self.fc.in_features
        self.norm.eval()

    def forward(self, images_BCHW: Tensor, stages: bool = False) -> Signals:
        pooled_BC = type(self).flat(self.norm(self.conv(images_BCHW)))
        return Signals(self.fc(pooled_BC), pooled_BC)

    def classifier(self) -> tuple[Tensor, Tensor]:
        return self.fc.weight, self.fc.bias


@pytest.fixture
def plugins() -> Iterator[None]:
    with kept():
        for name, flat in (("viewing", lambda x: x.view(len(x), -1)), ("flattening", lambda x: x.flatten(1))):
            member = type(name, (Flattening,), {"flat": staticmethod(flat), "Settings": NoSettings})
            register(name)(member)
        yield


def test_a_plugins_network_keeps_the_layout_that_its_code_needs(plugins: None) -> None:
    inputs = InputSpec(3, 8, 5)
    for name, expected in (("viewing", torch.contiguous_format), ("flattening", torch.channels_last)):
        built = networks.build(name, inputs, 0)
        assert networks.layout(built) == expected
        assert built.training and not built.norm.training and built.norm.num_batches_tracked == 0
        assert built(torch.randn(3, 3, 8, 8).contiguous(memory_format=networks.layout(built))).logits_BK.shape == (3, 5)


def momenta(trial: Trial) -> dict[str, Tensor]:
    names = {parameter: name for name, parameter in trial.student.named_parameters()}
    return {names[p]: state["momentum_buffer"] for p, state in trial.optimizer.state.items() if p in names}


def test_a_trial_in_channels_last_computes_as_in_the_plain_layout(config: Configure) -> None:
    of = config("kd", "crd", student="resnet8", batch_size=200, epochs=1)
    trial, plain = Trial(of), Trial(of)
    assert trial.teacher is not None and networks.layout(trial.teacher.network) == torch.channels_last
    for network in (plain.student, plain.teacher.network if plain.teacher else None):
        assert network is not None
        network.to(memory_format=torch.contiguous_format)
    plain.layout = torch.contiguous_format
    rows = [numbers(list(variant.run()))[0] for variant in (trial, plain)]
    losses = {key for key in rows[0] if key.startswith("loss.")}
    assert {"loss.ce", "loss.kd", "loss.crd"} <= losses
    for key in losses:
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-5)


def test_two_runs_in_channels_last_are_the_same_to_the_bit_and_resuming_keeps_the_layout(
    config: Configure, tmp_path: Path
) -> None:
    of = config(student="resnet8")
    whole = list(Trial(of).run())
    assert numbers(list(Trial(of).run())) == numbers(whole)
    torch.save(whole[0].state, tmp_path / "state.pt")
    earlier = copy.deepcopy(whole[0].state)  # a checkpoint of a version that laid everything out plainly
    for state in earlier["optimizer"]["state"].values():
        state["momentum_buffer"] = state["momentum_buffer"].contiguous()
    earlier["student"] = {key: value.contiguous() for key, value in earlier["student"].items()}
    for state in (torch.load(tmp_path / "state.pt", weights_only=True), earlier):
        resumed = Trial(of)
        resumed.load_state(state)
        assert networks.layout(resumed.student) == torch.channels_last
        strides = {name: value.stride() for name, value in momenta(resumed).items()}
        assert strides == {name: value.stride() for name, value in resumed.student.named_parameters()}
        assert numbers(list(resumed.run(state))) == numbers(whole)[1:]


# ----------------------------------------------------------------------------------------------- TF32, compilation


def flags() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def test_tf32_is_set_for_a_trial_on_cuda_and_taken_back() -> None:
    before = flags()
    for wanted, expected in ((True, ("high", True)), (False, ("highest", False))):
        with float32_as_set(CPU, wanted):
            assert flags() == before
        inside = []
        with contextlib.suppress(KeyError), float32_as_set(CUDA, wanted):
            inside.append(flags())
            raise KeyError
        assert inside == [expected]
        assert flags() == before


def test_every_part_of_a_trial_runs_with_float32_as_set(config: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(config(tf32=True))
    seen = []

    def noted(owner: Any, name: str) -> None:
        whole = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: (seen.append((name, flags())), whole(*args))[1])

    noted(trial.optimizer, "step")
    noted(networks, "signals")
    real = float32_as_set
    for module in (trial_loop, evaluation):
        monkeypatch.setattr(module, "float32_as_set", lambda device, tf32: real(CUDA, tf32))
    before = flags()
    steps(trial, 1)
    trial.evaluation.measure(trial.splits.test)
    trial.close()
    read = ["signals"] * 3  # student and teacher of the test set, the student once more
    assert seen == [(name, ("high", True)) for name in ("step", *read)]
    assert flags() == before


def test_a_compiled_student_is_the_same_student(config: Configure) -> None:
    traced: list[Any] = []

    def eager(module: torch.fx.GraphModule, _: Any) -> Any:
        traced.append(module)
        return module.forward

    compiled, plain = Trial(config("kd", "at", compile=True), compiler=eager), Trial(config("kd", "at"), compiler=eager)
    expected = numbers(list(plain.run()))
    assert not traced
    assert numbers(list(compiled.run())) == expected
    assert traced
    assert compiled.state("student", 1)["student"].keys() == plain.state("student", 1)["student"].keys()


# -------------------------------------------------------------------------------------------- waiting for the device


WAITING = set(
    """_local_scalar_dense item is_nonzero equal nonzero masked_select bincount _unique2 unique_dim unique_consecutive
    repeat_interleave _linalg_svd _linalg_eigh linalg_cholesky linalg_inv_ex linalg_solve_ex""".split()
)
"""Operations whose result, or its shape, the host has to know: on a GPU it then waits for everything before them."""


class Waits(TorchDispatchMode):
    """Notes operations that would make the host wait if tensors were on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        by_mask = name.startswith("index") and any(
            isinstance(tensor, Tensor) and tensor.dtype in (torch.bool, torch.uint8)
            for tensor in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if by_mask or name.split(".")[0] in WAITING:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_waits_are_noticed() -> None:
    x = torch.arange(4.0)
    for waiting in (lambda: float(x[0]), lambda: x[x > 1], lambda: x.nonzero(), lambda: bool(x[1] > 0), x[:1].item):
        with Waits() as waits:
            waiting()
        assert waits.seen
    with Waits() as waits:
        _ = x[torch.tensor([0, 1])] + x.where(x > 1, 0.0)[:2].cumsum(0)
    assert not waits.seen


def as_on_a_gpu(method: Any) -> Any:
    """The method, which draws as where there is a device to wait for."""
    if isinstance(method, CRD):
        method.draws_on_host = False
    return method


VIEWS = [{"name": "none"}, ANGULAR, {**ANGULAR, "variant": "released"}, {"name": "tekap"}]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("views", VIEWS, ids=lambda views: views["name"] + views.get("variant", ""))
def test_no_step_waits_for_the_device(config: Configure, views: dict[str, Any], precision: str) -> None:
    trial = Trial(config("kd", "crd", views=views, precision=precision))
    as_on_a_gpu(trial.objective.methods["crd"])
    steps(trial, 1)  # the first one finds out what is in the banks' checkpoint
    with Waits() as waits:
        steps(trial, 3)
    assert not waits.seen


@pytest.mark.parametrize("name", registry.names("methods"))
def test_no_method_waits_for_the_device(name: str) -> None:
    method = as_on_a_gpu(small_world.method(name))
    student = small_world.signals(1, small_world.STUDENT_DIM, requires_grad=True)
    target = Target.of(small_world.signals(2, small_world.TEACHER_DIM))
    if "strong" in method.needs and student.strong is not None:
        target = replace(target, strong=Target.of(small_world.signals(3, small_world.TEACHER_DIM, strong=False)))
    with Waits() as waits:
        loss = sum(method.terms(student, target, small_world.batch()).values(), torch.zeros(()))
        if loss.requires_grad:
            loss.backward()
        method.after_step()
    # torch decomposes matrices on the host's word; nothing else may ask for it
    assert set(waits.seen) == ({"_linalg_eigh.default"} if name == "kdsvd" else set())
