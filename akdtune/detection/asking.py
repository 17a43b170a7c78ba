"""All networks asked about the same inputs: real ones, ones synthesised from each student, Gaussian ones.

Shapes: P inputs of a pool, C channels, H, W, D classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from akdtune import networks, progress
from akdtune.detection.lineup import Lineup, Student, Teacher
from akdtune.detection.synthesis import Synthesis, norms_of, synthesise
from akdtune.devices import one_thread
from akdtune.errors import AkdtuneError
from akdtune.networks import Network
from akdtune.randomness import derived_seed
from akdtune.reports.detection.outputs import KINDS, Kind, Logits, Outputs, Pool, StudentFacts
from akdtune.reports.text import counted
from akdtune.teacher.checkpoints import weights_hash

LARGEST_POOL = 1000
"""Real and Gaussian inputs that draws are made from."""

BATCH = 256


@dataclass(frozen=True)
class Asked:
    """What is asked about.

    Attributes:
        kinds: of inputs.
        pool: real and Gaussian inputs at most.
        seed: of all draws.
        synthesis: how inputs are made from students.
    """

    kinds: Sequence[Kind] = KINDS
    pool: int = LARGEST_POOL
    seed: int = 0
    synthesis: Synthesis = field(default_factory=Synthesis)


@dataclass
class _Answers:
    """What students said about one kind of inputs, in the order in which they were asked."""

    names: list[str] = field(default_factory=list)
    students: list[Logits] = field(default_factory=list)
    teachers: list[Logits] = field(default_factory=list)


def ask(lineup: Lineup, asked: Asked) -> tuple[Outputs, dict[str, npt.NDArray[np.float32]]]:
    """What teachers and students say about all inputs, on the CPU by one thread, the same numbers each time.

    Students with the same weights are asked once: where they are controls of several studies, none of these has the
    teacher that they did not have.

    Returns:
        The outputs, and the synthesised inputs by student, [P, C, H, W].

    Raises:
        AkdtuneError: for a teacher whose answers are not finite; where nothing can be asked.
    """
    asking = _Asking(lineup, asked)
    with one_thread():
        asking.prepare()
        with progress.stage("asking students and teachers"):
            for place, student in enumerate(lineup.students):
                asking.add(student)
                progress.at(place + 1, len(lineup.students), "students")
    return asking.outputs(), asking.synthesised


class _Asking:
    def __init__(self, lineup: Lineup, asked: Asked) -> None:
        self.lineup = lineup
        self.asked = asked
        self.notes = list(lineup.notes)
        self.shared: dict[Kind, Tensor] = {}
        self.shared_logits: dict[Kind, Logits] = {}
        self.sample_ids: npt.NDArray[np.int64] | None = None
        self.answers: dict[Kind, _Answers] = {kind: _Answers() for kind in KINDS if kind in asked.kinds}
        self.synthesised: dict[str, npt.NDArray[np.float32]] = {}
        self.without_norms: list[str] = []
        self.facts: dict[str, StudentFacts] = {}
        """By hash of the weights."""
        self.again = 0

    def prepare(self) -> None:
        """Makes the inputs that all students share, and asks the teachers about them."""
        dataset, asked = self.lineup.dataset, self.asked
        if "real" in self.answers:
            test = dataset.split("full").test
            rng = np.random.Generator(np.random.Philox(derived_seed("real inputs", asked.seed)))
            positions_P = torch.from_numpy(np.sort(rng.permutation(len(test))[: asked.pool]))
            self.shared["real"] = test.images(positions_P)
            self.sample_ids = test.sample_ids_N[positions_P].numpy()
        if "gaussian" in self.answers:
            generator = torch.Generator().manual_seed(derived_seed("gaussian inputs", asked.seed))
            shape = (asked.pool, dataset.inputs.channels, dataset.inputs.size, dataset.inputs.size)
            self.shared["gaussian"] = torch.randn(shape, generator=generator)
        for kind, images_PCHW in self.shared.items():
            self.shared_logits[kind] = _of_teachers(self.lineup.teachers, images_PCHW, kind)

    def add(self, student: Student) -> None:
        """Asks a student, unless one with its weights was asked already."""
        network = student.load()
        weights = weights_hash(network)
        if (known := self.facts.get(weights)) is not None:
            self.again += 1
            self.facts[weights] = _merged(known, student)
            return
        said: dict[Kind, Logits] = {kind: logits_of(network, images) for kind, images in self.shared.items()}
        images_PCHW = self._synthesised_from(student, network)
        if images_PCHW is not None:
            said["synthesised"] = logits_of(network, images_PCHW)
        if not all(bool(np.isfinite(logits).all()) for logits in said.values()):
            self.notes.append(f"{student.name}: left out, what it says is not finite")
            return
        if images_PCHW is not None:
            self.answers["synthesised"].teachers.append(_of_teachers(self.lineup.teachers, images_PCHW, "synthesised"))
            self.synthesised[student.name] = images_PCHW.numpy()
        for kind, logits_PD in said.items():
            self.answers[kind].names.append(student.name)
            self.answers[kind].students.append(logits_PD)
        self.facts[weights] = StudentFacts(
            student.name,
            student.network,
            weights,
            student.group,
            student.teacher,
            student.run,
            student.arm,
            student.seed,
        )

    def _synthesised_from(self, student: Student, network: Network) -> Tensor | None:
        if "synthesised" not in self.answers:
            return None
        if not norms_of(network):
            self.without_norms.append(student.name)
            return None
        return synthesise(network, self.lineup.dataset.inputs, self.asked.synthesis)

    def outputs(self) -> Outputs:
        """Everything that was said.

        Raises:
            AkdtuneError: where nothing was.
        """
        pools = [pool for kind in self.answers if (pool := self._pool(kind)) is not None]
        if self.without_norms:
            first, *others = self.without_norms
            self.notes.append(
                f"synthesised inputs: {counted(1 + len(others), 'student')} left out, without BatchNorm there are no "
                f"statistics to synthesise from ({first}{', ...' if others else ''})"
            )
        if self.again:
            unassigned = [facts for facts in self.facts.values() if facts.group == "control" and facts.teacher is None]
            hint = "; controls among them have no teacher to be assigned to, other seeds in each study give them one"
            self.notes.append(
                f"{counted(self.again, 'student')} with the weights of another one, asked once{hint * bool(unassigned)}"
            )
        if not pools:
            raise AkdtuneError("nothing could be asked: " + "; ".join(self.notes))
        synthesis = self.asked.synthesis
        how: dict[str, int | float] = {"seed": self.asked.seed}
        if "synthesised" in self.answers:
            how |= {"steps": synthesis.steps, "step_size": synthesis.step_size, "norm_weight": synthesis.norm_weight}
        teachers = tuple(teacher.facts for teacher in self.lineup.teachers)
        return Outputs(teachers, tuple(self.facts.values()), tuple(pools), tuple(self.notes), how)

    def _pool(self, kind: Kind) -> Pool | None:
        answers = self.answers[kind]
        if not answers.names:
            return None
        teachers_GKPD = self.shared_logits[kind][None] if kind in self.shared_logits else np.stack(answers.teachers)
        sample_ids = self.sample_ids if kind == "real" else None
        return Pool(kind, tuple(answers.names), np.stack(answers.students), teachers_GKPD, sample_ids)


def _merged(known: StudentFacts, again: Student) -> StudentFacts:
    """The facts of weights that several students have.

    Raises:
        AkdtuneError: where two different teachers are said to have taught them.
    """
    if known.teacher == again.teacher and known.group == again.group:
        return known
    if known.group == again.group == "control":
        return replace(known, teacher=None)
    raise AkdtuneError(
        f"{known.name} and {again.name} have the same weights, and are said to be {known.group} "
        f"({known.teacher or 'no teacher'}) and {again.group} ({again.teacher or 'no teacher'})"
    )


@torch.no_grad()
def logits_of(network: Network, images_PCHW: Tensor) -> Logits:
    """What a network says about normalised images, [P, D]."""
    layout = networks.layout(network)
    batches = torch.split(images_PCHW, BATCH)
    parts = [network(part.contiguous(memory_format=layout)).logits_BK for part in batches]
    logits_PD: Logits = torch.cat(parts).float().numpy()
    return logits_PD


def _of_teachers(teachers: Sequence[Teacher], images_PCHW: Tensor, kind: Kind) -> Logits:
    """What all candidates say, [K, P, D].

    Raises:
        AkdtuneError: for a teacher whose answers are not finite.
    """
    said = [logits_of(teacher.network, images_PCHW) for teacher in teachers]
    for teacher, logits_PD in zip(teachers, said, strict=True):
        if not np.isfinite(logits_PD).all():
            raise AkdtuneError(f"teacher {teacher.facts.name}: what it says of {kind} inputs is not finite")
    return np.stack(said)
