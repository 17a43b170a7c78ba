"""One search in both its forms: as a study of akdtune, and as plain JSON for `plain_tune.py`; see `against_tune.py`."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from trial_speed import SETTINGS, VIEWS

NAME = "against"
NEGATIVES = {"negatives": "with_replacement", "num_negatives": 16384}
"""Of CRD, as published, however few images there are."""

DOMAINS: dict[str, dict[str, list[float]]] = {
    "training.lr": {"log_uniform": [0.01, 0.1]},
    "method.kd.weight": {"uniform": [0.5, 2.0]},
    "method.crd.weight": {"uniform": [0.4, 1.2]},
    "views.margin": {"uniform": [0.1, 0.5]},
}


def search_of(arguments: argparse.Namespace, setting: str, precision: str) -> dict[str, Any]:
    """All that a search says, as plain JSON; `settings` are the study's without its domains."""
    views, methods = SETTINGS[setting]
    teacher, _, student = arguments.pair.partition("->")
    training: dict[str, Any] = {"epochs": arguments.epochs, "batch_size": 64, "device": "cpu"}
    if precision != "fp32":
        training["precision"] = precision
    of_views: dict[str, Any] = {"name": views}
    if views == "angular":
        of_views |= {**VIEWS, "train_heads": "both" if arguments.warmup else "joint"}
        of_views |= {"warmup_epochs": arguments.warmup} if arguments.warmup else {}
    settings = {
        "data": yaml.safe_load(arguments.data),
        "student": {"network": student},
        "views": of_views,
        "method": [{"name": name, **(NEGATIVES if name == "crd" else {})} for name in methods],
        "training": training,
    }
    parts = {"training", *(f"method.{name}" for name in methods), *(["views"] if views == "angular" else [])}
    domains = {path: domain for path, domain in DOMAINS.items() if path.rpartition(".")[0] in parts}
    return {
        "name": NAME,
        "settings": settings,
        "domains": domains,
        "points": points(domains, arguments.trials),
        "teacher_settings": {"network": teacher, "epochs": 2, "batch_size": 64},
        "plugins": ["patterned_images"],
        "epochs": arguments.epochs,
        "grace_period": 1,
        "reduction_factor": 2,
        "seed": 0,
        "slots": 2,
        "tracking": arguments.tracking,
        "reuse_actors": arguments.reuse_actors,
    }


def points(domains: Mapping[str, Mapping[str, Sequence[float]]], count: int) -> list[dict[str, float]]:
    """The configurations that both sides train, drawn evenly from the domains."""
    drawn = random.Random(0)

    def value(domain: Mapping[str, Sequence[float]]) -> float:
        ((kind, (low, high)),) = domain.items()
        share = drawn.random()
        return round(low * (high / low) ** share if kind == "log_uniform" else low + (high - low) * share, 6)

    return [{path: value(domain) for path, domain in domains.items()} for _ in range(count)]


def settings_at(settings: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the values of a point, by key path, in their places."""
    found: dict[str, Any] = json.loads(json.dumps(settings))
    for path, value in point.items():
        section, *names, key = path.split(".")
        place = found[section]
        if section == "method":
            (place,) = [method for method in place if method["name"] == names[0]]
        place[key] = value
    return found


def study_of(search: Mapping[str, Any]) -> dict[str, Any]:
    """The same search as a study of akdtune."""
    return {
        "study": search["name"],
        "plugins": search["plugins"],
        "teacher": search["teacher_settings"],
        **settings_at(search["settings"], search["domains"]),
        "search": {"algorithm": "tpe", "trials": len(search["points"]), "enqueue": search["points"]},
        "scheduler": {key: search[key] for key in ("grace_period", "reduction_factor")} | {"name": "asha"},
        "resources": {"cpu": 1, "gpu": 0},
        "tracking": {"wandb": {"project": search["name"], "mode": "offline"}},
    }
