"""A search written for Ray Tune as its guides show it: what `against_tune.py` measures `akdtune run` against.

A function trainable with `tune.report`, ASHA, Optuna and Weights & Biases (offline). Each trial trains with the
published step (`reference_step.py`): images one by one through PIL in a DataLoader, the teacher live in every step, a
module per view head, CRD by gathering rows. It saves a checkpoint with every report, and goes on from it.

    python benchmarks/plain_tune.py SEARCH.json [--restore]

Networks, initial weights and formulas come from an akdtune trial of the same settings and seed, so that both train the
same; nothing else of it is used.
"""

# Shapes: B batch, N validation images, K classes, C feature width.

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from one_search import settings_at
from patterned_images import note
from ray import tune
from ray.air.integrations.wandb import WandbLoggerCallback, setup_wandb
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from reference_step import PlainBatch, PublishedImages, ReferenceStep, in_bfloat16
from torch.utils.data import DataLoader

from akdtune.methods.crd import CRD
from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.request import TrialRequest, trial_seeds
from akdtune.training.trial import Trial

CHECKPOINT = "checkpoint.pt"
SCORES = 3
"""Epochs whose mean accuracy ASHA compares, as akdtune's brackets do."""


class PlainTrial:
    """Everything that one trial trains: the published step on one configuration of the search.

    Args:
        point: values by key path.
        search: what all trials share, see `one_search.search_of`.
    """

    def __init__(self, point: Mapping[str, Any], search: Mapping[str, Any]) -> None:
        settings = settings_at(search["settings"], point)
        request = TrialRequest(
            settings=settings,
            seeds=trial_seeds(search["seed"]),
            teacher_file=TeacherFile.parse(search["teacher"]),
            plugins=search["plugins"],
        )
        trial = Trial(TrialConfig.parse(request))
        self.training = trial.config.training
        self.step = ReferenceStep(trial)
        if self.training.precision == "bf16":
            in_bfloat16(self.step)
        self.warmup_epochs, self.warmup_rate = trial.views.warmup_epochs, trial.views.warmup_learning_rate
        crd = dict(trial.objective.methods.items()).get("crd")
        of_train = trial.train.pixels.images.plain(trial.train.rows_N), trial.train.training_labels_N, trial.dataset
        images = PublishedImages(*of_train, crd.num_negatives if isinstance(crd, CRD) else 0)
        self.loader: DataLoader[Any] = DataLoader(
            images, self.training.batch_size, shuffle=True, drop_last=len(images) % self.training.batch_size == 1
        )
        assert trial.splits.validation is not None
        self.validation_labels_N = trial.splits.validation.labels_N
        self.validation = [images_BCHW for _, images_BCHW in trial.splits.validation.plain_batches(256)]

    def warm_up(self) -> None:
        """Trains the view heads alone; the published code does so in every trial."""
        if not self.warmup_epochs:
            return
        optimizer = torch.optim.SGD(
            self.step.heads.parameters(),
            lr=self.warmup_rate(1),
            momentum=self.training.momentum,
            weight_decay=self.training.weight_decay,
        )
        for epoch in range(1, self.warmup_epochs + 1):
            began = time.thread_time()
            optimizer.param_groups[0]["lr"] = self.warmup_rate(epoch)
            for batch in self.batches():
                optimizer.zero_grad()
                self.step.total(self.step.warmup_terms(batch)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            note(self.training.lr, "warmup", epoch, time.thread_time() - began)

    def epoch(self, epoch: int) -> float:
        """Trains the student for one epoch and returns its accuracy on the validation images, in percent."""
        began = time.thread_time()
        for group in self.step.optimizer.param_groups:
            group["lr"] = self.training.learning_rate(epoch)
        self.step.student.train()
        for batch in self.batches():
            self.step.step(batch)
        cpu_s = time.thread_time() - began
        self.step.student.eval()
        with torch.no_grad():
            found_N = torch.cat([self.step.student(images_BCHW).logits_BK for images_BCHW in self.validation]).argmax(1)
        note(self.training.lr, "student", epoch, cpu_s)
        return 100 * float((found_N == self.validation_labels_N).double().mean())

    def batches(self) -> Iterator[PlainBatch]:
        """Those of one epoch."""
        return (PlainBatch(*loaded) for loaded in self.loader)

    def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Writes what a trial needs to go on."""
        step, crd = self.step, self.step.crd
        parts = {"student": step.student, "heads": step.heads, **({} if crd is None else {"crd": crd})}
        content = {name: part.state_dict() for name, part in parts.items()}
        content |= {"optimizer": step.optimizer.state_dict(), "partitions": [] if crd is None else crd.partitions}
        torch.save({**content, **state}, folder / CHECKPOINT)

    def load(self, folder: Path) -> dict[str, Any]:
        """Reads what `save` wrote, and returns the state that was given there."""
        content = torch.load(folder / CHECKPOINT)
        self.step.student.load_state_dict(content.pop("student"))
        self.step.heads.load_state_dict(content.pop("heads"))
        self.step.optimizer.load_state_dict(content.pop("optimizer"))
        partitions = content.pop("partitions")
        if self.step.crd is not None:
            self.step.crd.load_state_dict(content.pop("crd"))
            self.step.crd.partitions = partitions
        return dict(content)


def train(config: dict[str, Any], search: dict[str, Any]) -> None:
    """The trainable."""
    torch.set_num_threads(1)
    torch.manual_seed(search["seed"])
    np.random.seed(search["seed"])  # noqa: NPY002 - as published
    run = None
    if search["tracking"] == "setup":
        run = setup_wandb(config, project=search["name"], trial_id=tune.get_context().get_trial_id())
    trial, done, scores = PlainTrial(config, search), 0, []
    if checkpoint := tune.get_checkpoint():
        with checkpoint.as_directory() as folder:
            state = trial.load(Path(folder))
        done, scores = state["epoch"], state["scores"]
    else:
        trial.warm_up()
    for epoch in range(done + 1, search["epochs"] + 1):
        accuracy = trial.epoch(epoch)
        scores = [*scores, accuracy][-SCORES:]
        row = {"epoch": epoch, "val_accuracy": accuracy, "score": sum(scores) / len(scores)}
        if run is not None:
            run.log(row)
        with tempfile.TemporaryDirectory() as saved:
            trial.save(Path(saved), {"epoch": epoch, "scores": scores})
            tune.report(row, checkpoint=tune.Checkpoint.from_directory(saved))
    if run is not None:
        run.finish()


def tuner_of(search: dict[str, Any], folder: Path) -> tune.Tuner:
    """A new search."""
    callbacks = [WandbLoggerCallback(project=search["name"])] if search["tracking"] == "callback" else []
    domains = {"uniform": tune.uniform, "log_uniform": tune.loguniform}
    space = {
        path: domains[kind](*bounds) for path, domain in search["domains"].items() for kind, bounds in domain.items()
    }
    return tune.Tuner(
        trainable_of(search),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            num_samples=len(search["points"]),
            reuse_actors=search["reuse_actors"],
            search_alg=OptunaSearch(points_to_evaluate=search["points"], seed=search["seed"]),
            scheduler=ASHAScheduler(
                time_attr="epoch",
                max_t=search["epochs"],
                grace_period=search["grace_period"],
                reduction_factor=search["reduction_factor"],
            ),
        ),
        run_config=tune.RunConfig(name=search["name"], storage_path=str(folder), callbacks=callbacks),
    )


def trainable_of(search: dict[str, Any]) -> Any:
    """The trainable of a search, one processor a trial."""
    return tune.with_resources(tune.with_parameters(train, search=search), {"cpu": 1})


def main() -> None:
    """Runs or restores a search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("search", type=Path, help="written by against_tune.py")
    parser.add_argument("--restore", action="store_true", help="goes on with a search that was interrupted")
    arguments = parser.parse_args()
    search, folder = json.loads(arguments.search.read_text()), arguments.search.parent
    ray.init(num_cpus=search["slots"])
    tuner = tuner_of(search, folder)
    if arguments.restore:
        tuner = tune.Tuner.restore(str(folder / search["name"]), trainable_of(search), restart_errored=True)
    results = tuner.fit()
    (folder / "results.json").write_text(
        json.dumps([[r.config, r.metrics, str(r.error)] for r in results], default=str)
    )


if __name__ == "__main__":
    main()
