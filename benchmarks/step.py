"""One training step of view heads and angular losses: all heads at once against one head at a time.

Both sides compute the same numbers (losses and gradients are compared first, with the same dropout masks), in turn,
on one thread; the table shows median process CPU time per step.

    python benchmarks/step.py [--quick] [--json FILE]
"""

# Shapes: B batch, V views, K classes, C feature width, R either of the last two.

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from machine import sentence
from torch import Tensor, nn
from torch.nn import functional

from akdtune.registry import lookup
from akdtune.signals import Signals
from akdtune.training.objective import weighted_sum
from akdtune.views import ViewContext
from akdtune.views._angular_settings import AngularSettings
from akdtune.views.angular import Angular


class Setup(NamedTuple):
    """One row of the table."""

    name: str
    batch: int
    width: int
    classes: int
    views: int
    variant: str


SETUPS = [
    Setup("digits", 32, 128, 10, 5, "constrained"),
    Setup("digits", 32, 128, 10, 5, "paper"),
    Setup("digits", 32, 128, 10, 5, "released"),
    Setup("cifar100, resnet32", 64, 64, 100, 5, "constrained"),
    Setup("cifar100, resnet32x4", 64, 256, 100, 5, "constrained"),
    Setup("cifar100, resnet32x4", 64, 256, 100, 7, "constrained"),
]


class PlainHead(nn.Module):
    """One head from torch's own layers; its dropout mask is handed in, so that both sides can use the same."""

    def __init__(self, angular: Angular, index: int) -> None:
        super().__init__()
        heads = angular.heads
        width, classes = heads.classifier_VCK.shape[1:]
        self.mix, self.norm, self.classify = nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, classes)
        self.dropout = 1 - float(heads.keep_V[index])
        with torch.no_grad():
            self.mix.weight.copy_(heads.weight_VCC[index].T)
            self.mix.bias.copy_(heads.bias_VC[index])
            self.norm.weight.copy_(heads.norm_scale_VC[index])
            self.norm.bias.copy_(heads.norm_shift_VC[index])
            self.classify.weight.copy_(heads.classifier_VCK[index].T)
            self.classify.bias.copy_(heads.classifier_bias_VK[index])

    def forward(self, pooled_BC: Tensor, mask_BC: Tensor | None) -> tuple[Tensor, Tensor]:
        """View logits and view feature."""
        dropped_BC = functional.dropout(pooled_BC, self.dropout) if mask_BC is None else pooled_BC * mask_BC
        feature_BC = self.norm(self.mix(dropped_BC))
        return self.classify(feature_BC), feature_BC


def plain_level(
    teacher_BR: Tensor, views: list[Tensor], cosine: bool, settings: AngularSettings, level: str
) -> dict[str, Tensor]:
    """Constraint, diversity and intra of one level, one view and one pair of views at a time."""
    near = functional.normalize(teacher_BR, dim=-1) if cosine else teacher_BR
    near_views = [functional.normalize(view, dim=-1) if cosine else view for view in views]
    spread = near_views
    if level == "feature" and settings.div_norm == "view":
        spread = list(functional.normalize(torch.stack(views, dim=1), dim=1).unbind(1))
    constraints = [plain_constraint(near, view, settings) for view in near_views]
    gate_B = torch.stack([(view * near).sum(dim=-1) for view in spread]).min(dim=0).values > 1 - settings.margin
    offsets = [functional.normalize(teacher_BR - view, dim=-1) for view in views]
    diversity, intra, pairs = [], [], [(i, j) for i in range(len(views)) for j in range(i)]
    for i, j in pairs:
        diversity.append((functional.softplus((spread[i] * spread[j]).sum(dim=-1)) * gate_B).mean())
        cosine_B = (offsets[i] * offsets[j]).sum(dim=-1)
        late = settings.softplus_of == "batch_mean"
        intra.append(functional.softplus(cosine_B.mean()) if late else functional.softplus(cosine_B).mean())
    again = len(views) if settings.con_extra_1_over_N else 1
    return {
        f"{level}_constraint": torch.stack(constraints).mean() / again,
        f"{level}_diversity": torch.stack(diversity).mean(),
        f"{level}_intra": torch.stack(intra).mean(),
    }


def plain_constraint(teacher_BR: Tensor, view_BR: Tensor, settings: AngularSettings) -> Tensor:
    """The constraint of one view."""
    if settings.constraint == "hinge":
        return functional.relu(1 - settings.margin - (view_BR * teacher_BR).sum(dim=-1)).mean()
    similarity_BB = view_BR @ teacher_BR.T
    own = torch.eye(len(view_BR), dtype=torch.bool, device=view_BR.device)
    similarity_BB = torch.where(own & (similarity_BB >= 1 - settings.margin), 1.0, similarity_BB)
    numbers_B = torch.arange(len(view_BR), device=view_BR.device)
    return functional.cross_entropy(similarity_BB / settings.contrast_temperature, numbers_B)


class Sides:
    """The same step in both forms, on the same inputs."""

    def __init__(self, setup: Setup) -> None:
        self.generator = torch.Generator().manual_seed(0)
        component = lookup("views", "angular")
        context = ViewContext(
            setup.classes, setup.width, (torch.empty(0), torch.empty(0)), torch.device("cpu"), self.generator
        )
        settings = component.Settings(variant=setup.variant, num_views=setup.views, margin=0.5)
        self.angular: Angular = component(settings, context).train()
        self.settings: AngularSettings = settings
        self.heads = nn.ModuleList(PlainHead(self.angular, index) for index in range(setup.views))
        pooled_BC = torch.randn(setup.batch, setup.width, generator=self.generator).relu()
        self.teacher = Signals(torch.randn(setup.batch, setup.classes, generator=self.generator) * 4, pooled_BC)
        self.labels_B = torch.randint(0, setup.classes, (setup.batch,), generator=self.generator)

    def together(self) -> Tensor:
        """Loss of all heads at once."""
        views = self.angular.views(self.teacher, self.generator)
        return self.total(self.angular.penalties(self.teacher, views, self.labels_B))

    def one_by_one(self, masks_VBC: Tensor | None = None) -> Tensor:
        """Loss of one head at a time."""
        settings = self.settings
        of_heads = [
            head(self.teacher.pooled_BC, None if masks_VBC is None else masks_VBC[index])
            for index, head in enumerate(self.heads)
        ]
        logits, pooled = [of_head[0] for of_head in of_heads], [of_head[1] for of_head in of_heads]
        probabilities = [torch.softmax(of_view / settings.angle_temperature, dim=-1) for of_view in logits]
        teacher_BK = torch.softmax(self.teacher.logits_BK / settings.angle_temperature, dim=-1)
        terms = plain_level(self.teacher.pooled_BC, pooled, True, settings, "feature")
        terms |= plain_level(teacher_BK, probabilities, settings.logit_sim == "cosine", settings, "logit")
        terms["ground_truth"] = torch.stack(
            [functional.cross_entropy(of_view, self.labels_B) for of_view in logits]
        ).sum()
        return self.total(terms)

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the penalties."""
        total = weighted_sum(terms, self.angular.penalty_weights())
        assert total is not None
        return total

    def largest_difference(self) -> float:
        """Largest relative difference of loss and gradients with the same dropout masks."""
        state = self.generator.get_state()
        masks_VBC = self.angular.heads.dropped_VBC(torch.ones_like(self.teacher.pooled_BC), self.generator)
        self.generator.set_state(state)
        batched, other = self.together(), self.one_by_one(masks_VBC)
        (batched + other).backward()  # type: ignore[no-untyped-call]
        pairs = [(batched.detach(), other.detach())]
        together = self.angular.heads
        for index, head in enumerate(self.heads):
            assert isinstance(head, PlainHead)
            assert together.weight_VCC.grad is not None
            assert together.classifier_VCK.grad is not None
            assert together.norm_scale_VC.grad is not None
            pairs.append((together.weight_VCC.grad[index].T, _gradient(head.mix.weight)))
            pairs.append((together.classifier_VCK.grad[index].T, _gradient(head.classify.weight)))
            pairs.append((together.norm_scale_VC.grad[index], _gradient(head.norm.weight)))
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def stepper(module: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A training step: loss, backward, SGD."""
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, foreach=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def measure(setup: Setup, steps: int) -> dict[str, Any]:
    """Proves both sides equal, then times them in turn."""
    sides = Sides(setup)
    difference = sides.largest_difference()
    if difference > 1e-4:
        raise SystemExit(f"{setup}: the two sides differ by {difference:.1e}")
    forms = {"one by one": stepper(sides.heads, sides.one_by_one), "together": stepper(sides.angular, sides.together)}
    times: dict[str, list[float]] = {name: [] for name in forms}
    for index in range(steps + 5):
        for name, step in forms.items():
            started = time.process_time()
            step()
            if index >= 5:
                times[name].append(time.process_time() - started)
    row: dict[str, Any] = setup._asdict() | {"difference": difference}
    for name, seconds in times.items():
        row[f"{name.replace(' ', '_')}_ms"] = 1000 * statistics.median(seconds)
    row["ratio"] = row["one_by_one_ms"] / row["together_ms"]
    return row


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps, only the digits rows")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    setups = SETUPS[:3] if arguments.quick else SETUPS
    rows = [measure(setup, 20 if arguments.quick else 150) for setup in setups]
    print(sentence())
    print("B batch, C feature width, K classes, V views; ms of one thread's CPU time per step, median")
    print(
        f"{'set-up':<22}{'B':>4}{'C':>5}{'K':>5}{'V':>3}  {'variant':<12}{'one by one':>11}{'together':>10}{'ratio':>7}"
    )
    for row in rows:
        sizes = f"{row['batch']:>4}{row['width']:>5}{row['classes']:>5}{row['views']:>3}"
        times = f"{row['one_by_one_ms']:>11.2f}{row['together_ms']:>10.2f}{row['ratio']:>7.2f}"
        print(f"{row['name']:<22}{sizes}  {row['variant']:<12}{times}")
    print(f"largest relative difference of loss and gradients: {max(row['difference'] for row in rows):.0e}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
