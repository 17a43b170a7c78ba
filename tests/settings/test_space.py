"""Domains, arms and proposals, without the settings classes of real components."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import optuna
import pytest
from scipy.stats import qmc

from akdtune.errors import AkdtuneError
from akdtune.settings import domains, pickers, space
from akdtune.settings.space import Arm, Pooled

TREE: dict[str, Any] = {
    "student": {"network": "resnet8"},
    "views": {
        "choice": [
            {"name": "none"},
            {
                "name": "angular",
                "num_views": {"choice": [1, 3, 5]},
                "margin": {"uniform": [0.1, 0.6]},
                "diversity_weight": {"log_uniform": [1.0, 30.0]},
            },
        ]
    },
    "method": {
        "choice": [
            {"name": "kd", "weight": {"log_uniform": [0.1, 4.0]}},
            [{"name": "kd", "weight": {"uniform": [0.5, 1.0]}}, {"name": "crd"}],
        ]
    },
    "training": {"choice": [{"lr": {"quantized_uniform": [0.1, 0.7, 0.1]}}, {"lr": 0.05, "batch_size": 64}]},
}


def as_is(values: dict[str, Any]) -> dict[str, Any]:
    return values


def build(tree: dict[str, Any], fixed: dict[str, Any] | None = None) -> tuple[list[Arm], Pooled]:
    issues: list[domains.Issue] = []
    parsed = domains.parse(tree, issues, [])
    assert not issues
    expanded = space.expand(parsed)
    names: space.Names = {}
    arms = [Arm(f"arm {i}", tree, names, as_is, fixed) for i, (tree, _, _) in enumerate(expanded)]
    return arms, Pooled(arms, [taken for _, _, taken in expanded], names)


def only_arm(tree: dict[str, Any], fixed: dict[str, Any] | None = None) -> Arm:
    (arm,), _ = build(tree, fixed)
    return arm


# Reading domains


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        ({"uniform": [0, 1], "choice": [1]}, (), ["exactly one key", "'uniform', 'choice'"]),
        ({"uniform": [0, 1], "low": 1}, (), ["exactly one key", "'low'"]),
        ({"choice": []}, (), ["at least one option", "empty list"]),
        ({"grid": 3}, (), ["'grid' needs a list", "got 3"]),
        ({"choice": [1, 2, 1]}, ("choice", 2), ["holds 1 twice"]),
        ({"uniform": [0.6, 0.1]}, (), ["low end 0.6 above its high end 0.1"]),
        ({"log_uniform": [0, 1]}, (), ["low end above 0, got 0"]),
        ({"log_int_uniform": [0, 8]}, (), ["low end above 0, got 0"]),
        ({"uniform": [0.6]}, (), ["[low, high]", "2 numbers", "[0.6]"]),
        ({"uniform": [0, "1"]}, (), ["2 numbers", "'1'"]),
        ({"uniform": [False, True]}, (), ["2 numbers"]),
        ({"int_uniform": [1, 2.5]}, (), ["whole numbers"]),
        ({"quantized_uniform": [0, 1]}, (), ["[low, high, step]", "3 numbers"]),
        ({"quantized_uniform": [0, 1, 0]}, (), ["step above 0", "got 0"]),
        ({"quantized_uniform": [0, 1, 2]}, (), ["at most high - low", "got 2"]),
        ({"choice": [{"a": {"uniform": [2, 1]}}]}, ("choice", 0, "a"), ["low end 2"]),
    ],
)
def test_a_wrong_domain_is_refused_where_it_stands(value: Any, path: tuple[Any, ...], words: list[str]) -> None:
    issues: list[domains.Issue] = []
    domains.parse({"x": value}, issues, [])
    ((where, message),) = issues
    assert where == ("x", *path)
    for word in words:
        assert word in message


def test_steps_that_miss_the_high_end_are_noted() -> None:
    notes: list[domains.Issue] = []
    tree = domains.parse({"x": {"quantized_uniform": [0.0, 1.0, 0.3]}}, [], notes)
    assert tree["x"].high == 0.9
    assert notes == [(("x",), "no step of 0.3 ends at 1.0: the highest value tried is 0.9")]


def test_constants_and_unknown_mappings_stay_as_they_are() -> None:
    tree = {"a": [1, {"b": None}], "c": {"name": "kd", "weight": 1.5}}
    assert domains.parse(tree, [], []) == tree


# Arms


def test_structural_choices_span_the_arms_in_file_order() -> None:
    arms, _ = build(TREE)
    components = [(arm.tree["views"]["name"], domains.label(arm.tree["method"])) for arm in arms]
    assert components == [("none", "kd"), ("none", "kd+crd"), ("angular", "kd"), ("angular", "kd+crd")]


@pytest.mark.parametrize(
    ("tree", "count"),
    [
        ({"views": {"name": {"choice": ["none", "angular"]}}}, 2),
        ({"views": {"name": "angular", "variant": {"choice": ["paper", "released"]}}}, 2),
        ({"views": {"name": "angular", "num_views": {"choice": [1, 3]}}}, 1),
        ({"student": {"network": {"choice": ["resnet8", {"name": "cnn", "widths": [4]}]}}}, 2),
        ({"student": {"network": {"name": "cnn", "widths": {"choice": [[4, 8], [8, 16]]}}}}, 1),
        ({"method": [{"name": "kd"}, {"choice": [{"name": "crd"}, {"name": "dkd"}]}]}, 2),
        ({"method": {"choice": [{"choice": [{"name": "crd"}, {"name": "dkd"}]}, {"name": "kd"}]}}, 3),
        ({"training": {"choice": [{"lr": 1}, {"lr": 2}]}}, 1),
        ({"views": {"name": "x", "noise": {"choice": [{"kind": "a"}, {"kind": "b"}]}}}, 2),
    ],
)
def test_what_counts_as_a_structural_choice(tree: dict[str, Any], count: int) -> None:
    assert len(build(tree)[0]) == count


def test_too_many_arms_are_refused() -> None:
    many = {"choice": [{"name": f"m{i}"} for i in range(32)]}
    with pytest.raises(AkdtuneError, match="more than 1000 arms"):
        build({"views": many, "method": [many, many]})


def test_dimensions_name_the_terms_of_a_sum_by_their_method() -> None:
    arms, _ = build(TREE)
    paths = [dimension.path for dimension in arms[3].dimensions]
    assert paths == [
        "views.num_views", "views.margin", "views.diversity_weight", "method.kd.weight", "training", "training.lr",
    ]  # fmt: skip
    assert arms[3].dimensions[-1].when == "training = lr=quantized_uniform(0.1, 0.7)"


def test_names_are_unique_in_the_study_and_the_same_when_pooled() -> None:
    arms, pooled = build(TREE)
    by_place: dict[str, set[tuple[Any, ...]]] = {}
    for arm in arms:
        for dimension in arm.dimensions:
            by_place.setdefault(dimension.name, set()).add((dimension.kind, dimension.low, dimension.high))
    assert all(len(kinds) == 1 for kinds in by_place.values())
    assert {"method.kd.weight", "method.kd.weight#2"} <= set(by_place)
    assert {dimension.name for dimension in pooled.dimensions} == {"views", "method", *by_place}


# Sampling


@pytest.mark.parametrize("seed", range(40))
def test_random_proposals_are_plain_and_inside_their_domains(seed: int) -> None:
    arms, pooled = build(TREE)
    for proposal in [pooled.random(seed), *(arm.random(seed) for arm in arms)]:
        space.assert_plain(proposal.settings)
        if proposal.settings["views"]["name"] == "angular":
            assert 0.1 <= proposal.params["views.margin"] <= 0.6
            assert 1 <= proposal.params["views.diversity_weight"] <= 30
            assert proposal.settings["views"]["num_views"] in (1, 3, 5)
        else:
            assert not any(path.startswith("views") for path in proposal.params)
        lr = proposal.settings["training"]["lr"]
        assert (
            lr == 0.05 if "batch_size" in proposal.settings["training"] else lr in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
        )
        assert ("training.lr" in proposal.params) == ("batch_size" not in proposal.settings["training"])


def test_a_proposal_depends_on_its_seed_alone() -> None:
    arms, pooled = build(TREE)
    assert arms[2].random(5) == arms[2].random(5)
    assert arms[2].random(5) != arms[2].random(6)
    assert pooled.random(5).arm in {arm.name for arm in arms}


def test_replay_gives_the_same_proposal() -> None:
    arms, pooled = build(TREE)
    for seed in range(20):
        for searched in (*arms, pooled):
            proposal = searched.random(seed)
            assert searched.replay(proposal.raw) == proposal
    with pytest.raises(AkdtuneError, match=r"no value for 'views\.num_views'"):
        arms[2].replay({})


def test_log_ranges_are_even_on_a_logarithmic_scale() -> None:
    arm = only_arm({"x": {"log_uniform": [0.01, 100.0]}, "n": {"log_int_uniform": [1, 1000]}})
    drawn = [arm.random(seed).settings for seed in range(400)]
    assert 0.4 < np.mean([values["x"] < 1.0 for values in drawn]) < 0.6
    assert 0.4 < np.mean([values["n"] <= 31 for values in drawn]) < 0.6
    assert all(type(values["n"]) is int for values in drawn)


def test_whole_ranges_reach_both_ends_evenly() -> None:
    arm = only_arm({"n": {"int_uniform": [2, 5]}, "q": {"quantized_uniform": [16, 64, 16]}})
    drawn = [arm.random(seed).settings for seed in range(400)]
    assert {values["n"] for values in drawn} == {2, 3, 4, 5}
    assert {values["q"] for values in drawn} == {16, 32, 48, 64}
    assert all(type(values["q"]) is int for values in drawn)
    assert max(sum(values["n"] == n for values in drawn) for n in (2, 3, 4, 5)) < 150


class FromOptuna:
    """What `search.py` does, without its ledger."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def categorical(self, name: str, labels: Sequence[str]) -> int:
        return list(labels).index(self.trial.suggest_categorical(name, labels))

    def float(self, name: str, low: Any, high: Any, log: bool, step: Any) -> Any:
        return self.trial.suggest_float(name, low, high, log=log, step=step)

    def int(self, name: str, low: Any, high: Any, log: bool, step: Any) -> Any:
        return self.trial.suggest_int(name, low, high, log=log, step=step)


def test_nested_choices_reach_a_trial_as_plain_values_under_optuna() -> None:
    """Inside a nested choice, Tune hands a trial the sampler object instead of a value."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    arms, pooled = build(TREE)
    for searched in (arms[3], pooled):
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1, n_startup_trials=4))
        for number in range(12):
            trial = study.ask()
            proposal = searched.sample(FromOptuna(trial))
            space.assert_plain(proposal.settings)
            assert proposal.raw == trial.params
            assert searched.replay(proposal.raw) == proposal
            study.tell(trial, float(number % 5))


def test_an_option_may_itself_be_a_range() -> None:
    arm = only_arm({"x": {"choice": [0.5, {"uniform": [1.0, 2.0]}]}})
    drawn = [arm.random(seed) for seed in range(40)]
    assert all(proposal.params["x"] == proposal.settings["x"] for proposal in drawn)
    assert all(proposal.params["x"] == 0.5 or 1 <= proposal.params["x"] <= 2 for proposal in drawn)
    assert {len(proposal.raw) for proposal in drawn} == {1, 2}


def test_everything_pickles() -> None:
    arms, pooled = build(TREE)
    copy = pickle.loads(pickle.dumps(pooled))
    assert copy.random(3) == pooled.random(3)
    assert pickle.loads(pickle.dumps(arms[2])).random(3) == arms[2].random(3)


@pytest.mark.parametrize(
    "value",
    [
        {"a": np.float64(1.0)}, {"a": [np.int64(1)]}, {"a": (1, 2)}, {1: "a"}, {"a": math.nan}, {"a": math.inf},
        {"a": domains.Range((), "uniform", 0.0, 1.0)}, {"a": {1, 2}}, {"a": np.bool_(True)},
    ],
)  # fmt: skip
def test_only_plain_json_passes(value: Any) -> None:
    with pytest.raises(AssertionError):
        space.assert_plain(value)


# Grids


def test_a_grid_enumerates_every_combination_once_in_order() -> None:
    arm = only_arm({"a": {"grid": [1, 2]}, "b": {"choice": ["x", {"c": {"int_uniform": [3, 5]}}]}})
    settings = [proposal.settings for proposal in arm.grid()]
    values = ["x", {"c": 3}, {"c": 4}, {"c": 5}]
    assert settings == [{"a": a, "b": b} for a in (1, 2) for b in values]
    assert arm.grid_size() == 8


def test_a_pooled_grid_is_the_arms_grids() -> None:
    tree = {"method": {"choice": [{"name": "kd", "t": {"choice": [2, 4]}}, {"name": "crd"}]}, "x": {"grid": [1, 2, 3]}}
    arms, pooled = build(tree)
    assert [p.settings for p in pooled.grid()] == [p.settings for arm in arms for p in arm.grid()]
    assert len(list(pooled.grid())) == 9


def test_quantized_grids_have_no_floating_point_dust() -> None:
    arm = only_arm({"q": {"quantized_uniform": [0.1, 0.7, 0.1]}})
    assert [proposal.settings["q"] for proposal in arm.grid()] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_a_space_without_domains_has_one_configuration() -> None:
    arm = only_arm({"a": 1})
    assert [proposal.settings for proposal in arm.grid()] == [{"a": 1}]
    assert arm.grid_size() == 1


def test_a_grid_refuses_ranges_without_steps() -> None:
    arm = only_arm({"a": {"uniform": [0.0, 1.0]}})
    assert arm.grid_size() is None
    with pytest.raises(AkdtuneError, match=r"cannot enumerate a \(uniform: \[0\.0, 1\.0\]\)"):
        list(arm.grid())


# Probes

PROBED: dict[str, Any] = {
    "views": {
        "name": "angular",
        "num_views": {"choice": [1, 2, 3, 5]},
        "margin": {"uniform": [0.1, 0.6]},
        "diversity_weight": {"log_uniform": [1.0, 30.0]},
    },
    "method": {"name": "kd", "weight": {"log_uniform": [0.25, 4.0]}, "temperature": {"choice": [2, 4, 8]}},
    "training": {"lr": {"uniform": [0.0, 0.1]}, "batch_size": {"int_uniform": [16, 64]}},
}


def test_probes_vary_the_views_and_centre_the_rest() -> None:
    probes = only_arm(PROBED).probes(24, seed=0)
    assert len({probe.params["views.margin"] for probe in probes}) == 24
    rest = {(p.params["method.kd.weight"], p.params["method.kd.temperature"], p.params["training.lr"],
             p.params["training.batch_size"]) for p in probes}  # fmt: skip
    assert rest == {(1.0, 4, 0.05, 40)}


def test_probes_fill_every_axis_evenly() -> None:
    probes = only_arm(PROBED).probes(24, seed=3)
    margins = sorted(probe.params["views.margin"] for probe in probes)
    assert max(np.diff([0.1, *margins, 0.6])) < 0.5 / 8
    logs = [math.log(probe.params["views.diversity_weight"]) / math.log(30) for probe in probes]
    assert {int(share * 5) for share in logs} == {0, 1, 2, 3, 4}
    counts = [sum(probe.params["views.num_views"] == n for probe in probes) for n in (1, 2, 3, 5)]
    assert counts == [6, 6, 6, 6]


def test_fixed_settings_stand_where_they_are_put() -> None:
    arm = only_arm(PROBED, {"method.kd.weight": 2.0, "method.kd.temperature": 8, "views.num_views": 5})
    probes = arm.probes(6, seed=0)
    assert {
        (p.params["method.kd.weight"], p.params["method.kd.temperature"], p.params["views.num_views"]) for p in probes
    } == {(2.0, 8, 5)}
    assert len({probe.params["views.margin"] for probe in probes}) == 6
    assert arm.probed == ("views.margin", "views.diversity_weight")


def test_arms_without_searched_views_have_no_probes() -> None:
    arm = only_arm({**PROBED, "views": {"name": "none"}})
    assert arm.probes(8, seed=0) == []
    assert arm.probed == ()


def test_probes_depend_on_the_seed_alone() -> None:
    arm = only_arm(PROBED)
    assert arm.probes(6, 1) == arm.probes(6, 1)
    assert arm.probes(6, 1) != arm.probes(6, 2)
    assert arm.probes(6, 1) == arm.probes(24, 1)[:6]


@pytest.mark.parametrize("seed", range(3))
def test_halton_axes_are_stratified_in_their_base(seed: int) -> None:
    points = pickers.halton(25 * 27 * 16, 3, seed)
    for axis, (base, power) in enumerate([(2, 4), (3, 3), (5, 2)]):
        block = base**power
        for start in (0, block, 3 * block):
            cells = {
                math.floor(Fraction(point[axis]) * block + Fraction(1, 10**9))
                for point in points[start : start + block]
            }
            assert len(cells) == block
    assert all(0 <= share < 1 for point in points for share in point)


def test_halton_spreads_better_than_independent_draws() -> None:
    rng = np.random.default_rng(0)
    for seed in range(5):
        spread = qmc.discrepancy(np.array(pickers.halton(24, 3, seed)))
        assert spread < 0.7 * qmc.discrepancy(rng.random((24, 3)))


@pytest.mark.parametrize(
    ("augmentation", "text"),
    [
        ({"random_resized_crop": {"scale": [0.2, 1.0], "ratio": [0.75, 4 / 3]}, "rotation": 15.0},
         "random_resized_crop+rotation=15"),
        ({"autoaugment": "cifar10", "cutout": 14, "cutout_random": True},
         "autoaugment=cifar10+cutout=14+cutout_random"),
        ({"preset": "strong", "cutout": 0, "flip": False}, "strong+cutout=0+flip=false"),
        ({"preset": "weak", "pad": 0, "rotation": None}, "pad=0"),
        ({"preset": "weak"}, "weak"),
        ({"randaugment": {"ops": {"choice": [1, 2]}}, "cutout": domains.Choice((), "choice", (2, 4))},
         "randaugment+cutout=2|4"),
        ({"lr": 0.1, "cutout": 4}, "lr=0.1, cutout=4"),
    ],
)  # fmt: skip
def test_an_augmentation_is_called_by_what_is_set_of_it(augmentation: dict[str, Any], text: str) -> None:
    assert domains.label(augmentation) == text
