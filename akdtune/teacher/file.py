"""Teachers as files that are ready to be loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from akdtune.registry import NO_NETWORK, network_name
from akdtune.settings.checkpoint import CheckpointFile
from akdtune.settings.teacher import TeacherSettings


@dataclass(frozen=True)
class TeacherFile:
    """A teacher that is ready to be loaded, with any further ones; plain JSON by `plain`, and back by the constructor.

    Attributes:
        path: the checkpoint; empty where there is no teacher.
        key: what an `auto` teacher is found by; empty for an imported one.
        weights_hash: of the weights themselves; `none` where there is no teacher.
        network: the `network` setting it belongs to.
        val_accuracy: percent; None where it has trained on the validation images or there are none.
        test_accuracy: percent.
        saw_validation: whether our validation images may have been among its training images, or those of a teacher
            it was distilled from, or those of any of the others.
        others: further teachers, in the order of the settings; given as such or as dicts.
        inside: where in the checkpoint the weights are, as set (`checkpoint.key`); None: found.
        strip: what is left out of their names, as set; None: found.
        note: what was taken for granted in reading an imported one, in one line.
    """

    path: str
    key: str
    weights_hash: str
    network: str | dict[str, Any]
    val_accuracy: float | None
    test_accuracy: float | None
    saw_validation: bool
    others: tuple[TeacherFile, ...] = ()
    inside: str | None = None
    strip: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        given: Sequence[TeacherFile | Mapping[str, Any]] = self.others
        others = tuple(other if isinstance(other, TeacherFile) else TeacherFile(**other) for other in given)
        object.__setattr__(self, "others", others)

    def plain(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return asdict(self) | {"others": [other.plain() for other in self.others]}

    @property
    def checkpoint(self) -> CheckpointFile:
        """The file with where in it the weights are."""
        return CheckpointFile(path=self.path, key=self.inside, strip=self.strip)

    @property
    def absent(self) -> bool:
        """Whether there is no teacher."""
        return network_name(self.network) == NO_NETWORK

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> TeacherFile:
        """The inverse of `plain`."""
        return cls(**plain)

    @property
    def identity(self) -> str:
        """One hash for the weights of all teachers, 16 hex digits (`none` without any); the main one's if alone."""
        if not self.others:
            return self.weights_hash
        hashes = [self.weights_hash, *(other.weights_hash for other in self.others)]
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]

    @classmethod
    def none(cls) -> TeacherFile:
        """What stands for no teacher."""
        return cls("", "", "none", NO_NETWORK, None, None, False)

    @classmethod
    def untrained(cls, settings: TeacherSettings) -> TeacherFile:
        """A stand-in without weights, for plans made before the teacher exists."""
        if settings.absent:
            return cls.none()
        # which images the weights will have seen matters to roles that train on a part of them
        seen, others = settings.saw_validation("subset"), tuple(cls.untrained(other) for other in settings.others)
        seen = seen or any(other.saw_validation for other in others)
        return cls("", "", "untrained", settings.network, None, None, seen, others)
