"""Teachers and students out of any checkpoints, as the command line names them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akdtune.detection.lineup import CPU, Lineup, Student, Teacher
from akdtune.errors import AkdtuneError, CheckpointError, SettingsError, unknown_name
from akdtune.registry import NO_NETWORK, load_plugins, network_name
from akdtune.reports.detection.outputs import Group, TeacherFacts
from akdtune.roles import TrainOn
from akdtune.settings.checkpoint import CheckpointFile
from akdtune.settings.data import DataSettings
from akdtune.settings.file import COMMAND_LINE, SettingsFile, has_domain, written
from akdtune.settings.messages import typed
from akdtune.settings.teacher import PRETRAINED, TeacherSettings
from akdtune.settings.yaml_text import parse
from akdtune.study import spec
from akdtune.teacher.checkpoints import load_checkpoint
from akdtune.teacher.find import find_alone, load_teacher

NO_TEACHER = "none"
"""As the teacher of a student: it had none and is a negative control."""


@dataclass(frozen=True)
class Base:
    """What checkpoints say nothing of: the images, and the networks that they belong to unless told otherwise.

    Attributes:
        source: the file or study that says so.
        data: whose test images are asked about.
        teacher: of the study; its recipe is that of a teacher named `auto`.
        student: a network; None where the study searches over several.
    """

    source: str
    data: DataSettings
    teacher: TeacherSettings
    student: str | dict[str, Any] | None


@dataclass(frozen=True)
class Given:
    """What the command line says.

    Attributes:
        teachers: `NAME=FILE` each.
        students: `FILE`, `FILE=TEACHER` or `FILE=none` each.
        networks: `NAME=NETWORK` each.
    """

    teachers: Sequence[str] = ()
    students: Sequence[str] = ()
    networks: Sequence[str] = ()


def base_of_file(source: str) -> Base:
    """Images and networks of a settings file or a packaged study, its plug-ins loaded.

    Raises:
        SettingsError: with every problem of the file.
    """
    study = spec.load(source)
    folder = str(Path(source).expanduser().parent.absolute())
    load_plugins(study.plugins, [folder, str(Path.cwd())])
    networks = [arm.centre().settings["student"]["network"] for arm in study.arms]
    searched = has_domain(study.values.get("student")) or any(network != networks[0] for network in networks)
    if not isinstance(study.data, DataSettings):
        raise AkdtuneError(f"{source}: data.name is {study.data.name}; who taught whom is asked of students of images")
    return Base(source, study.data, study.teacher, None if searched else networks[0])


def base_of_lock(run: Path, lock: Mapping[str, Any]) -> Base:
    """Images and networks of a study that has begun."""
    settings = lock["settings"]
    network = (settings.get("student") or {}).get("network")
    student = None if has_domain(settings.get("student")) else network
    return Base(str(run), DataSettings(**settings["data"]), TeacherSettings(**settings["teacher"]), student)


def add_files(lineup: Lineup, given: Given, base: Base) -> None:
    """Adds the teachers and students that the command line names.

    Raises:
        AkdtuneError: naming the option, what it got and what it takes.
        CheckpointError: for a file that is missing or does not fit its network.
    """
    networks = dict(_pairs("--network", "NAME=NETWORK", given.networks))
    unused = set(networks)
    for name, file in _pairs("--teacher", "NAME=FILE", given.teachers):
        if name == NO_TEACHER:
            raise AkdtuneError(f"--teacher {name}={file}: '{name}' stands for no teacher; choose another name")
        if name in (teacher.facts.name for teacher in lineup.teachers):
            raise AkdtuneError(f"--teacher {name}={file}: there is a teacher '{name}' already")
        network = _network(name, networks.get(name), base.teacher.network)
        unused.discard(name)
        if (known := lineup.add_teacher(_teacher(name, file, network, base, lineup))) != name:
            lineup.notes.append(f"teacher {name} has the weights of {known}: they are one candidate, {known}")
    names = [teacher.facts.name for teacher in lineup.teachers]
    for text in given.students:
        file, teacher = _told(text, names)
        checkpoint = _checkpoint("--student", file)
        label = _label(checkpoint)
        setting = next((networks[known] for known in (file, label) if known in networks), None)
        unused -= {file, label}
        network = _network(label, setting, base.student)
        load = functools.partial(load_checkpoint, checkpoint, network, lineup.dataset.inputs, CPU)
        group: Group = "unknown" if teacher is None else "control" if teacher == NO_TEACHER else "distilled"
        load()  # what does not fit is refused before anything is computed
        known_teacher = teacher if group == "distilled" else None
        lineup.add_student(Student(label, network_name(network), group, known_teacher, load))
    if unused:
        everybody = [*names, *(student.name for student in lineup.students)]
        raise AkdtuneError(f"--network: {unknown_name('teacher or student', min(unused), everybody)}")


def _pairs(option: str, form: str, texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values of an option, each name once."""
    seen: set[str] = set()
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise AkdtuneError(f"{option} {text}: must have the form {form}")
        if name in seen:
            raise AkdtuneError(f"{option}: '{name}' is named twice")
        seen.add(name)
        yield name, value


def _plain(option: str, text: str) -> Any:
    """A value as YAML reads it."""
    aside = SettingsFile(COMMAND_LINE)
    try:
        value = parse(text, aside, COMMAND_LINE)
    except SettingsError as error:
        raise AkdtuneError(f"{option} {text}: {error.problems[0].message}") from error
    if aside.problems:
        raise AkdtuneError(f"{option} {text}: {aside.problems[0].message}")
    return value


def _checkpoint(option: str, text: str) -> CheckpointFile:
    """A file as `teacher.checkpoint` takes it: a path, or `{path: ..., key: ..., strip: ...}`."""
    if not text.lstrip().startswith("{"):
        return CheckpointFile(path=text)
    found, problems = typed(CheckpointFile, dict(_plain(option, text)))
    if found is None:
        path, message = problems[0]
        raise AkdtuneError(f"{option} {text}: {written(path)} {message}")
    return found


def _network(name: str, text: str | None, default: str | dict[str, Any] | None) -> str | dict[str, Any]:
    """The network of a candidate: as it is given, else that of the settings."""
    if text is not None:
        value = _plain(f"--network {name}", text)
        if not isinstance(value, str | dict):
            raise AkdtuneError(f"--network {name}={text}: must be a name or {{name: ..., its settings}}")
        return value
    if default is None or network_name(default) == NO_NETWORK:
        raise AkdtuneError(f"--network {name}=...: is needed, the settings do not say which network it is")
    return default


def _teacher(name: str, file: str, network: str | dict[str, Any], base: Base, lineup: Lineup) -> Teacher:
    """A candidate, found in any way that `teacher.checkpoint` takes: auto, pretrained, a file, parts of a file."""
    recipe = base.teacher.model_dump(mode="json") if file == "auto" else {}
    checkpoint = file if file in ("auto", PRETRAINED) else _checkpoint(f"--teacher {name}", file).model_dump()
    recipe.pop("others", None)
    settings, problems = typed(TeacherSettings, {**recipe, "network": network, "checkpoint": checkpoint})
    if settings is None:
        path, message = problems[0]
        raise AkdtuneError(f"--teacher {name}={file}: {written(path)} {message}")
    ways: tuple[TrainOn, ...] = ("full", "subset") if base.data.validation else ("full",)
    for train_on in ways:
        found = find_alone(settings, lineup.dataset, train_on)
        if found is not None:
            facts = TeacherFacts(name, network_name(network), found.weights_hash, found.test_accuracy)
            return Teacher(facts, load_teacher(found, lineup.dataset.inputs, CPU))
    raise CheckpointError(
        f"--teacher {name}=auto: is not trained yet with the recipe of {base.source} "
        f"(`akdtune teacher train {base.source}`)"
    )


def _told(text: str, teachers: Sequence[str]) -> tuple[str, str | None]:
    """The file of a student, and its teacher where that is told."""
    file, equals, teacher = text.rpartition("=")
    if not equals or _exists(text) or teacher.rstrip().endswith("}"):
        return text, None
    if teacher not in (*teachers, NO_TEACHER):
        raise AkdtuneError(f"--student {text}: {unknown_name('teacher', teacher, [*teachers, NO_TEACHER])}")
    return file, teacher


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a name too long, a null byte, no home
        return False


def _label(checkpoint: CheckpointFile) -> str:
    """What a student is called: its file, without what all of them have."""
    path = Path(checkpoint.path)
    return path.resolve().parent.name if path.stem == "checkpoint" else path.stem
