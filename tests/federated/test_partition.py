"""Images dealt out: each once, nobody below the minimum, the same whenever asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from akdtune.errors import AkdtuneError
from akdtune.federated.partition import Partition, partition
from akdtune.federated.settings import FederatedSettings

IMAGES, CLASSES = 600, 10
IDS = np.arange(IMAGES) * 3 + 5
LABELS = np.arange(IMAGES) % CLASSES


def dealt(seed: int = 7, **settings: Any) -> Partition:
    return partition(LABELS, IDS, FederatedSettings(**{"clients": 6, "proxy": 60, "minimum": 10, **settings}), seed)


WAYS: list[dict[str, Any]] = [{"dirichlet": 0.3}, {"classes_per_client": 3}, {}]


@pytest.mark.parametrize("way", WAYS)
def test_each_image_is_in_one_place(way: dict[str, Any]) -> None:
    made = dealt(**way)
    assert len(made.proxy) == 60 and len(made.clients) == 6
    assert all(len(part) >= 10 for part in made.clients)
    assert sorted(np.concatenate([made.proxy, *made.clients]).tolist()) == list(range(IMAGES))


@pytest.mark.parametrize("way", WAYS)
def test_the_same_for_a_seed_and_another_for_another(way: dict[str, Any]) -> None:
    first, again, other = dealt(**way), dealt(**way), dealt(8, **way)
    for mine, theirs in zip([first.proxy, *first.clients], [again.proxy, *again.clients], strict=True):
        assert mine.tolist() == theirs.tolist()
    assert [part.tolist() for part in first.clients] != [part.tolist() for part in other.clients]


def test_classes_are_dealt_out_evenly() -> None:
    parts = dealt(classes_per_client=5).clients
    held = [set(LABELS[part].tolist()) for part in parts]
    assert [len(classes) for classes in held] == [5] * 6
    assert [sum(label in classes for classes in held) for label in range(CLASSES)] == [3] * CLASSES


def test_a_small_concentration_leaves_clients_few_classes() -> None:
    def largest_share(dirichlet: float) -> float:
        parts = dealt(dirichlet=dirichlet, minimum=2).clients
        return float(np.mean([np.bincount(LABELS[part]).max() / len(part) for part in parts]))

    assert largest_share(0.1) > 0.4 > 0.2 > largest_share(100.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"proxy": 550}, "task.proxy: 550 of 600 training images leave 50 for 6 clients with at least 10 each"),
        ({"dirichlet": 0.05, "minimum": 85}, "task.minimum: in 1000 draws with dirichlet 0.05, not all of 6 clients"),
        ({"classes_per_client": 11}, "task.classes_per_client: 11 for each of 6 clients, and the pool has 10 classes"),
        ({"classes_per_client": 1}, "at least 2: each class needs a client"),
        ({"classes_per_client": 2, "minimum": 90}, "task.minimum: a client has"),
    ],
)
def test_what_the_pool_is_too_small_for_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(AkdtuneError) as caught:
        dealt(**settings)
    assert message in str(caught.value)


def test_ways_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"dirichlet \(0.3\) and classes_per_client \(3\) both say how images are"):
        FederatedSettings(dirichlet=0.3, classes_per_client=3)


def test_clients_take_the_networks_in_turn() -> None:
    small, large = {"name": "mlp", "widths": [8]}, {"name": "mlp", "widths": [16]}
    settings = FederatedSettings(clients=5, networks=[small, large, small])
    assert settings.alike == (0, 1, 0, 0, 1)
    assert FederatedSettings(networks=["mlp"]).networks == [{"name": "mlp", "widths": [64]}]
    with pytest.raises(ValueError, match="unknown network 'mlpp'; did you mean 'mlp'"):
        FederatedSettings(networks=["mlpp"])
