"""Settings without effect: training really is the same to the last bit, and cells that differ in them are merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.designs.changes import apply, spelled_out
from akdtune.designs.factors import cells_of
from akdtune.designs.no_effect import canonical, idle_settings, merge
from akdtune.errors import AkdtuneError
from akdtune.registry import lookup, names
from akdtune.settings.training import TrainingSettings
from akdtune.settings.trial import trial_settings
from akdtune.signals import Batch, Signals
from akdtune.training.objective import Objective, weighted_sum
from akdtune.training.optimizers import build_optimizer, set_learning_rate
from tests import small_world
from tests.small_world import STUDENT_DIM, TEACHER_DIM

STUDY = {"data": {"name": "digits"}, "teacher": {"network": "resnet20"}}

OTHERWISE: dict[str, Any] = {
    "projection": "linear",
    "margin": 0.35,
    "logit_margin": 0.45,
    "learnable_margin": True,
    "margin_max": 0.7,
    "margin_penalty": 0.3,
    "constraint": "infonce_shift",
    "contrast_temperature": 0.2,
    "div_norm": "view",
    "div_denominator": "active",
    "intra_norm": "unit",
    "softplus_of": "batch_mean",
    "gt_reduction": "mean",
    "logit_sim": "dot",
    "ensemble": "weighted_l2",
    "resample": "step",
    "seed": 7,
    "dropout": 0.5,
    "noise": 0.7,
    "feature_noise": 0.7,
    "number": 2,
    "feature_number": 2,
    "masks": "none",
    "temperatures": [2.0, 3.0],
    "milestones": [1, 2],
    "first_variance": 3.0,
    "smallest_variance": 0.1,
    "hint_stage": 1,
    "rank": 2,
    "power": 1,
    "resolution": 1,
    "shrink": 0.3,
    "divergence": "reverse",
    "direction": "w2s",
    "momentum": 0.7,
}
"""Another valid value of a setting; numbers without one are raised by a half, switches turned."""


def changed(key: str, value: Any) -> Any:
    if key in OTHERWISE:
        return OTHERWISE[key]
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 1.5 + 0.1


def leaves() -> list[Tensor]:
    signals = small_world.signals(1, STUDENT_DIM, requires_grad=True)
    assert signals.preact_stages is not None and signals.classifier is not None
    return [signals.logits_BK, signals.pooled_BC, signals.classifier[0], *signals.preact_stages]


def student_of(tensors: list[Tensor]) -> Signals:
    logits_BK, pooled_BC, weight_KC, *preact = tensors
    stages = tuple(preact_map.relu() for preact_map in preact)
    again = small_world.signals(9, STUDENT_DIM).logits_BK + logits_BK
    last = stages[-1], (weight_KC, torch.zeros(7)), Signals(again, pooled_BC)
    drawn_BJK = torch.randn(len(logits_BK), 3, 7, generator=torch.Generator().manual_seed(10))
    answers_BJK = logits_BK[:, None] + drawn_BJK - drawn_BJK.mean(dim=1, keepdim=True)
    return Signals(logits_BK, pooled_BC, stages, tuple(preact), *last, answers_BJK=answers_BJK)


def trained(view: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]]) -> list[Tensor]:
    """The student after a warm-up of the views and three steps, with one generator for all of it."""
    settings = {key: value for key, value in view.items() if key != "name"}
    views = small_world.views(view["name"], **settings).train()
    built = {name: small_world.method(name, **given) for name, given in methods.items()}
    objective = Objective(built, views, ce_weight=0.3).train()
    teacher, generator = small_world.signals(2, TEACHER_DIM), torch.Generator().manual_seed(8)
    like = small_world.batch()
    if views.warmup_epochs:
        warmup = torch.optim.SGD(views.parameters(), lr=0.05, momentum=0.9)
        for epoch in (1, views.warmup_epochs):
            batch = Batch(like.labels_B, like.sample_ids_B, like.positions_B, epoch, generator)
            total = weighted_sum(views.warmup_penalties(teacher, batch), views.penalty_weights())
            assert total is not None
            total.backward()
            for group in warmup.param_groups:
                group["lr"] = views.warmup_learning_rate(epoch)
            warmup.step()
            warmup.zero_grad()
    of_student = leaves()
    optimizer = torch.optim.SGD([*of_student, *objective.trained_parameters()], lr=0.05, momentum=0.9)
    for epoch in (1, 2, 3):
        batch = Batch(like.labels_B, like.sample_ids_B, like.positions_B, epoch, generator, repeated=4 * (epoch > 1))
        optimizer.zero_grad()
        objective(student_of(of_student), teacher, batch).total.backward()
        optimizer.step()
        objective.after_step()
    return [tensor.detach() for tensor in of_student]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(tensor, other) for tensor, other in zip(first, second, strict=True))


ANGULAR: list[dict[str, Any]] = [
    {"warmup_epochs": 2},
    {"variant": "released", "warmup_epochs": 0},
    {"variant": "constrained", "train_heads": "joint"},
    {"inter": False, "train_heads": "joint"},
    {"inter": False, "constraint": "hinge", "warmup_epochs": 2},
    {"intra": False, "warmup_epochs": 2, "train_heads": "pretrain"},
    {"inter": False, "intra": False, "train_heads": "joint", "ensemble": "weighted_l1"},
    {"num_views": 1, "train_heads": "joint"},
    {"train_heads": "frozen"},
    {"train_heads": "frozen", "target_mode": "train"},
    {"train_heads": "pretrain", "warmup_epochs": 0},
    {"constraint_weight": 0, "train_heads": "joint"},
    {"diversity_weight": 0, "train_heads": "joint", "gt_weight": 0},
    {"constraint_weight": 0, "diversity_weight": 0, "train_heads": "joint"},
    {"feature_inter_weight": 0, "train_heads": "joint", "logit_margin": 0.3, "constraint": "hinge"},
    {"logit_inter_weight": 0, "logit_intra_weight": 0, "train_heads": "joint"},
    {"feature_inter_weight": 0, "logit_inter_weight": 0, "feature_intra_weight": 0, "logit_intra_weight": 0},
]
VIEWS = [
    *({"name": "angular", **variant} for variant in ANGULAR),
    {"name": "tekap", "level": "logit"},
    {"name": "tekap", "level": "feature", "variant": "released"},
    {"name": "tekap", "view_weight": 0},
    {"name": "tekap", "view_weight": 0, "feature_view_weight": 0},
    {"name": "tekap", "level": "logit", "view_weight": 0},
    {"name": "random"},
]


def _single(settings: Mapping[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Each idle setting of a view changed alone, where that is allowed."""
    component = lookup("views", settings["name"])
    filled = component.Settings(**{key: value for key, value in settings.items() if key != "name"})
    changed_alone = []
    for key in filled.idle():
        if key == "variant":
            continue
        values = {**filled.model_dump(), key: changed(key, getattr(filled, key))}
        if values != filled.model_dump():
            try:
                component.Settings(**values)
            except ValueError:
                continue
            changed_alone.append(({"name": settings["name"], **values}, key))
    return changed_alone


@pytest.mark.parametrize("settings", VIEWS, ids=str)
def test_idle_settings_of_views_change_nothing(settings: dict[str, Any]) -> None:
    methods: dict[str, dict[str, Any]] = {"kd": {}, "rkd": {}}
    before, cases = trained(settings, methods), _single(settings)
    assert cases
    for values, key in cases:
        assert same(before, trained(values, methods)), key


@pytest.mark.parametrize(
    ("view", "key"),
    [
        ({"name": "angular", "train_heads": "joint"}, "constraint_weight"),
        ({"name": "angular", "train_heads": "joint"}, "softplus_of"),
        ({"name": "angular", "train_heads": "joint", "variant": "constrained"}, "margin"),
        ({"name": "angular", "train_heads": "frozen", "target_mode": "train"}, "dropout"),
        ({"name": "tekap"}, "feature_noise"),
        ({"name": "tekap", "level": "logit"}, "shrink"),
    ],
)
def test_other_settings_do_change_something(view: dict[str, Any], key: str) -> None:
    """The test above can fail: what is not declared idle shows in the same three steps."""
    filled = lookup("views", view["name"]).Settings(**{k: v for k, v in view.items() if k != "name"})
    assert key not in filled.idle()
    other = {**view, key: changed(key, getattr(filled, key))}
    assert not same(trained(view, {"kd": {}, "rkd": {}}), trained(other, {"kd": {}, "rkd": {}}))


METHODS = [
    (name, weights, key)
    for name in names("methods")
    for weights, keys in lookup("methods", name).Settings.idle_at_zero.items()
    for key in keys
]


@pytest.mark.parametrize(("name", "weights", "key"), METHODS, ids=str)
def test_idle_settings_of_methods_change_nothing(name: str, weights: tuple[str, ...], key: str) -> None:
    model = lookup("methods", name).Settings
    zeros = dict.fromkeys(weights, 0.0)
    filled = model(**zeros)
    base = {key: getattr(filled, key) for key in model.model_fields}
    other = {**base, key: changed(key, base[key])}
    assert other != base
    assert key in model(**base).idle()
    assert "is 0" in model(**base).idle()[key] or "are 0" in model(**base).idle()[key]
    none = {"name": "none"}
    assert same(trained(none, {name: base}), trained(none, {name: other}))


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({}, {"dot_delta"}),
        ({"optimizer": "dot"}, set()),
        ({"schedule": "cosine"}, {"dot_delta", "milestones", "lr_decay"}),
        ({"lr_decay": 1.0}, {"dot_delta", "milestones"}),
        ({"milestones": []}, {"dot_delta", "lr_decay"}),
        ({"milestones": [4]}, {"dot_delta", "lr_decay"}),
        ({"optimizer": "adamw"}, {"dot_delta"}),
    ],
)
def test_idle_settings_of_training(given: dict[str, Any], keys: set[str]) -> None:
    base = TrainingSettings(epochs=4, **given)
    assert set(base.idle()) == keys
    for key in keys:
        other = TrainingSettings(**{**base.model_dump(), key: changed(key, getattr(base, key))})
        results = []
        for settings in (base, other):
            weight = torch.nn.Parameter(torch.ones(3))
            optimizer = build_optimizer(settings, [weight])
            for epoch in range(1, 5):
                set_learning_rate(optimizer, settings.learning_rate(epoch))
                weight.grad = torch.tensor([1.0, 2.0, epoch])
                if settings.optimizer != "dot":
                    optimizer.step()
            results.append(weight.detach())
        assert same(results[:1], results[1:])


def filled(sections: Mapping[str, Any]) -> dict[str, Any]:
    settings, issues = trial_settings(spelled_out(sections), STUDY)
    assert not issues
    return settings


BASE = {
    "views": {"name": "angular", "warmup_epochs": 2},
    "method": ["kd", {"name": "crd", "weight": 0.5}],
    "student": {"network": "cnn"},
    "training": None,
}


def test_apply_sets_key_paths_shorter_ones_first() -> None:
    changes = {
        "views.number": 2,
        "views": {"name": "tekap"},
        "method.crd.weight": 2.0,
        "student.network.widths": [4, 8],
        "training.lr": 0.1,
        "views.noise": 0.5,
    }
    sections, idle = apply(changes, BASE)
    assert sections == {
        "views": {"name": "tekap", "number": 2, "noise": 0.5},
        "method": [{"name": "kd"}, {"name": "crd", "weight": 2.0}],
        "student": {"network": {"name": "cnn", "widths": [4, 8]}},
        "training": {"lr": 0.1},
    }
    assert not idle
    assert BASE["views"] == {"name": "angular", "warmup_epochs": 2}
    filled(sections)


@pytest.mark.parametrize(
    ("changes", "section", "expected"),
    [
        ({"views": None}, "views", {"name": "none"}),
        ({"views.name": "tekap"}, "views", {"name": "tekap"}),
        ({"views.name": "angular"}, "views", {"name": "angular", "warmup_epochs": 2}),
        ({"method": "dkd", "method.beta": 2.0}, "method", [{"name": "dkd", "beta": 2.0}]),
        ({"method.crd": None}, "method", [{"name": "kd"}]),
        ({"method.crd": {}}, "method", [{"name": "kd"}, {"name": "crd"}]),
        ({"method.dkd": {"beta": 2.0}, "method.kd": None}, "method", [BASE["method"][1], {"name": "dkd", "beta": 2.0}]),
        ({"student.network": "wrn_16_1"}, "student", {"network": "wrn_16_1"}),
    ],
)
def test_apply_one_section(changes: dict[str, Any], section: str, expected: Any) -> None:
    sections, idle = apply(changes, BASE)
    assert sections[section] == expected
    assert not idle


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"views": "none", "views.num_views": 3}, "the views are none, which has no setting num_views"),
        ({"method.dkd.beta": 3.0}, "dkd is not among the methods (kd, crd)"),
        (
            {"student.network": "wrn_16_1", "student.network.widths": [4]},
            "the network is wrn_16_1, which has no setting",
        ),
    ],
)
def test_paths_that_lead_nowhere_are_idle(changes: dict[str, Any], reason: str) -> None:
    _, idle = apply(changes, BASE)
    assert [(path, reason in why) for path, why in idle] == [(max(changes, key=len), True)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views.num_veiws": 3}, "did you mean 'num_views'"),
        ({"method.kd.wieght": 3}, "did you mean 'weight'"),
        ({"method.dkd.bta": 3}, "did you mean 'beta'"),
        ({"method.weight": 3}, "which of kd, crd is meant? Write e.g. method.kd.weight"),
        ({"method.kd": None, "method.crd": None}, "null would leave no method"),
        ({"method.kd": 3}, "must be a mapping of settings, or null"),
        ({"training.learning_rate": 3}, "unknown setting 'learning_rate'"),
        ({"student.netwrk": "cnn"}, "did you mean 'network'"),
        ({"data.name": "cifar10"}, "unknown section 'data'"),
        ({"training.lr.x": 1}, "lr is 0.1, which has no keys of its own"),
    ],
)
def test_apply_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AkdtuneError) as raised:
        apply(changes, {**BASE, "training": {"lr": 0.1}})
    assert message in str(raised.value)


def test_cells_that_train_the_same_are_merged_with_a_line() -> None:
    factors = {"views.inter": [True, False], "views.margin": [0.2, 0.3], "views.logit_margin": [None, 0.4]}
    design = cells_of("full_factorial", factors)
    kept, lines = merge((cell, filled(apply(cell.applied, BASE)[0])) for cell in design.cells)
    assert [group.cell.name for group in kept] == [
        "base",
        "logit_margin=0.4",
        "margin=0.3",
        "margin=0.3, logit_margin=0.4",
        "inter=false",
    ]
    assert lines[1] == ("inter=false, margin=0.3: the same as inter=false (views.margin has no effect: inter is false)")
    assert list(kept[-1].merged) == lines and len(lines) == 3


def test_cells_are_merged_where_a_path_leads_nowhere() -> None:
    factors = {"views": [{"name": "angular"}, "none"], "views.num_views": [5, 3], "method.kd.weight": [0.9, 0.0]}
    cells, unapplied = [], {}
    for cell in cells_of("full_factorial", factors).cells:
        sections, unapplied[cell.name] = apply(cell.applied, BASE)
        cells.append((cell, filled(sections)))
    kept, lines = merge(cells, unapplied)
    assert len(kept) == 6
    assert lines[0] == (
        "views=none, num_views=3: the same as views=none"
        " (views.num_views has no effect: the views are none, which has no setting num_views)"
    )


def test_equal_arms_and_presets_spelled_out_are_the_same() -> None:
    released = filled({**BASE, "views": {"name": "tekap", "variant": "released"}})
    by_hand = filled({**BASE, "views": {**released["views"], "variant": "paper"}})
    assert released != by_hand
    assert canonical(released) == canonical(by_hand)
    arms = cells_of("arms", {}, arms={"a": {}, "b": {}})
    _, lines = merge((cell, released) for cell in arms.cells)
    assert lines == ["b: the same as a (their settings are equal)"]


@pytest.mark.parametrize("warmup", [0, 2])
def test_momentum_is_idle_under_adamw_unless_views_warm_up(warmup: int) -> None:
    views = {"name": "angular", "warmup_epochs": warmup}
    settings = filled({**BASE, "views": views, "training": {"optimizer": "adamw"}})
    assert ("training.momentum" in idle_settings(settings)) is (warmup == 0)


def test_shorthands_are_spelled_out() -> None:
    assert spelled_out({"views": None, "method": "kd", "student": {"network": "cnn"}}) == {
        "student": {"network": "cnn"},
        "views": {"name": "none"},
        "method": [{"name": "kd"}],
        "training": {},
    }
