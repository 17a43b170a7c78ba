"""Who has which training images: the server's proxy images, and those of each client.

Everything is drawn by the counter-based generator or, where a distribution is needed, from numpy's Philox with a seed
of its own: the same in every process.

Shapes: N images of the pool, K classes, C clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from akdtune.errors import AkdtuneError
from akdtune.federated.settings import FederatedSettings
from akdtune.randomness import Stream, derived_seed, random_order

Positions = npt.NDArray[np.int64]

DRAWS = 1000
"""Dirichlet shares are drawn at most so often until every client has its minimum."""


@dataclass(frozen=True)
class Partition:
    """Positions in the pool; each of it is in one place.

    Attributes:
        proxy: of the server's images.
        clients: of the images of each client.
    """

    proxy: Positions
    clients: Sequence[Positions]


def partition(labels_N: Positions, sample_ids_N: Positions, settings: FederatedSettings, seed: int) -> Partition:
    """Deals a pool out.

    Args:
        labels_N: that students train on.
        sample_ids_N: numbers of the images, by which draws go.
        settings: how.
        seed: of the draws.

    Raises:
        AkdtuneError: naming the setting that the pool is too small for.
    """
    seed = derived_seed("partition", seed)
    order_N = random_order(seed, 0, sample_ids_N, Stream.PARTITION)
    needed = settings.clients * settings.minimum
    if len(order_N) - settings.proxy < needed:
        raise AkdtuneError(
            f"task.proxy: {settings.proxy} of {len(order_N)} training images leave {len(order_N) - settings.proxy} for "
            f"{settings.clients} clients with at least {settings.minimum} each (task.minimum), which are {needed}"
        )
    proxy, rest = order_N[: settings.proxy], order_N[settings.proxy :]
    if settings.dirichlet is not None:
        parts = _by_dirichlet(rest, labels_N, settings, seed)
    elif settings.classes_per_client is not None:
        parts = _by_classes(rest, labels_N, settings, seed)
    else:
        parts = np.array_split(rest, settings.clients)
    return Partition(np.sort(proxy), [np.sort(part) for part in parts])


def _by_dirichlet(rest: Positions, labels_N: Positions, settings: FederatedSettings, seed: int) -> list[Positions]:
    """Each class is cut at shares that are drawn for it.

    References:
        Hsu, Qi and Brown, 2019, arXiv 1909.06335 (there, the shares of classes are drawn for each client); by class and
        with a minimum: Yurochkin et al., ICML 2019, arXiv 1905.12022.
    """
    of_class = _by_label(rest, labels_N)
    concentration = np.full(settings.clients, float(settings.dirichlet or 1.0))
    for draw in range(DRAWS):
        generator = np.random.Generator(np.random.Philox(key=[seed, draw]))
        parts: list[list[Positions]] = [[] for _ in range(settings.clients)]
        for images in of_class:
            ends = np.cumsum(generator.dirichlet(concentration))[:-1] * len(images)
            for part, piece in zip(parts, np.split(images, np.rint(ends).astype(np.int64)), strict=True):
                part.append(piece)
        sizes = [sum(map(len, part)) for part in parts]
        if min(sizes) >= settings.minimum:
            return [np.concatenate(part) for part in parts]
    raise AkdtuneError(
        f"task.minimum: in {DRAWS} draws with dirichlet {settings.dirichlet:g}, not all of {settings.clients} clients "
        f"had {settings.minimum} of {len(rest)} images: ask for fewer, or for a larger task.dirichlet"
    )


def _by_classes(rest: Positions, labels_N: Positions, settings: FederatedSettings, seed: int) -> list[Positions]:
    """Each client takes the classes that fewest have so far, at random among these; a class is dealt out evenly."""
    of_class = _by_label(rest, labels_N)
    classes, each = len(of_class), settings.classes_per_client or 1
    if each > classes or each * settings.clients < classes:
        raise AkdtuneError(
            f"task.classes_per_client: {each} for each of {settings.clients} clients, and the pool has {classes} "
            f"classes: at most {classes}, and at least {-(-classes // settings.clients)}: each class needs a client"
        )
    generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
    takers: list[list[int]] = [[] for _ in of_class]
    for client in range(settings.clients):
        drawn = generator.permutation(classes)
        counts = np.array([len(takers[index]) for index in drawn])
        for index in drawn[np.argsort(counts, kind="stable")[:each]]:
            takers[index].append(client)
    parts: list[list[Positions]] = [[] for _ in range(settings.clients)]
    for images, of_takers in zip(of_class, takers, strict=True):
        for client, piece in zip(of_takers, np.array_split(images, len(of_takers)), strict=True):
            parts[client].append(piece)
    whole = [np.concatenate(part) for part in parts]
    smallest = min(map(len, whole))
    if smallest < settings.minimum:
        raise AkdtuneError(
            f"task.minimum: a client has {smallest} images, and each must have {settings.minimum}: ask for fewer, or "
            "for fewer clients"
        )
    return whole


def _by_label(rest: Positions, labels_N: Positions) -> list[Positions]:
    """The images of each class that is there, in their drawn order."""
    return [rest[labels_N[rest] == label] for label in np.unique(labels_N[rest])]
