"""YAML text as plain values with the line of each; what is not plain, or beyond reason, is refused in words."""

from __future__ import annotations

import math
import re
import unicodedata
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver
from typing_extensions import override

from akdtune.errors import Problem, SettingsError
from akdtune.settings.file import COMMAND_LINE, KeyPath, SettingsFile, shown, written

LARGEST_BYTES = 1 << 20
"""Of a text of settings; a packaged study has some thousands."""

MOST_VALUES = 10_000
"""In one text; aliases of aliases reach any number in a few lines."""

TOO_MANY = f"it has more than {MOST_VALUES:,} values once its aliases are followed"

MOST_LEVELS = 50
"""Of lists and mappings inside each other."""

LONGEST_TEXT = 4096
"""Bytes of one value or key, as long as a path may be."""

LARGEST_WHOLE = 2**63 - 1
"""What result files hold."""

LARGEST_NUMBER = 1e30
"""Beyond it products leave float32, in which networks train."""

_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "null": (["~", "n", "N", ""], r"(?:~|null|Null|NULL)?$"),
    "bool": ("tTfF", r"(?:true|True|TRUE|false|False|FALSE)$"),
    "int": ("-+0123456789", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    "float": (
        "-+.0123456789",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
    ),
    "merge": ("<", "<<$"),
}
_PLAIN_TAGS = {ScalarNode: {*_SCALARS, "str"} - {"merge"}, SequenceNode: {"seq"}, MappingNode: {"map"}}
_OLD_VERSION = re.compile(r"%YAML[ \t]+1\.[01][ \t]*(?:#.*)?$", re.MULTILINE)
_UNCHECKED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What the library raises at values that it has not looked at before it turns them into Python's."""

_WIDE = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""How a file begins that is not in UTF-8 and says so; the longer ones first."""


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """By the first character of a scalar, which tags to try."""
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, (first, pattern) in _SCALARS.items():
        for character in first:
            table.setdefault(character, []).append((_TAG + tag, re.compile(pattern)))
    return table


class _CoreSchema(VersionedResolver):
    """The scalars of YAML 1.2's core schema, and merge keys: all else is text.

    Differs: ruamel's own rules for 1.2 take `1_28`, `0b1` and dates for more than text.
    """

    processing_version = (1, 2)
    versioned_resolver = _resolvers()


class _Refused(Exception):
    """The whole text, for a reason that stands in a line."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.what = what
        self.line = line


class _BoundedComposer(Composer):
    """Composes nodes no deeper than settings go: the library calls itself for each level."""

    level = 0
    nodes = 0

    @override
    def compose_node(self, parent: Any, index: Any) -> Any:
        line = self.parser.peek_event().start_mark.line + 1
        self.nodes += 1
        if self.nodes > 2 * MOST_VALUES:  # keys are nodes, too
            raise _Refused(TOO_MANY, line)
        if self.level > MOST_LEVELS:
            raise _Refused(f"it is nested too deeply (allowed: {MOST_LEVELS} levels of lists and mappings)", line)
        self.level += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.level -= 1


def read(path: Path, name: str) -> SettingsFile:
    """Reads a settings file.

    Raises:
        SettingsError: when the file cannot be read at all or is not a YAML mapping.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_BYTES + 1)
    except IsADirectoryError:
        raise SettingsError([Problem(name, "is a folder, not a YAML file")]) from None
    except (OSError, ValueError) as error:  # a path may hold what no path may
        raise SettingsError([Problem(name, f"cannot be read: {getattr(error, 'strerror', error)}")]) from None
    file = SettingsFile(name)
    values = parse(_decoded(content, name), file, name)
    if not isinstance(values, dict):
        got = "nothing" if values is None else shown(values)
        problem = Problem(name, f"must be a mapping of settings, got {got}")
        raise SettingsError([*file.problems, problem])
    file.values = values
    return file


def _decoded(content: bytes, name: str) -> str:
    if len(content) > LARGEST_BYTES:
        problem = f"is larger than a settings file may be ({LARGEST_BYTES >> 20} MiB); is it one?"
        raise SettingsError([Problem(name, problem)])
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        form = next((f"it is in {form}" for mark, form in _WIDE.items() if content.startswith(mark)), None)
        what = form or f"line {line} holds the byte 0x{content[error.start]:02x}"
        raise SettingsError([Problem(name, f"is not a text file in UTF-8: {what}; save it as UTF-8")]) from None


def parse(text: str, into: SettingsFile, name: str) -> Any:
    """The plain values of a YAML text; places and problems are added to `into`.

    Raises:
        SettingsError: for a text that cannot be read as a whole.
    """
    try:
        return _Reader(into, name).values(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = _in_words(error)
        line = None if mark is None else mark.line + 1
    except ReaderError as error:
        what = f"it holds the character #x{error.character:02x}, is this a text file?"
        line = text.count("\n", 0, error.position) + 1
    except _Refused as error:
        what, line = error.what, error.line
    except _UNCHECKED as error:  # such as of \U00110000, the escape of no character
        what, line = f"{type(error).__name__}: {error}", None
    place = None if name == COMMAND_LINE else line
    raise SettingsError([Problem("(YAML)", f"cannot be parsed: {what}", place, name)])


def _in_words(error: MarkedYAMLError) -> str:
    problem = str(error.problem)
    if "found another document" in problem:
        return "it holds several documents (`---`); a settings file is one"
    said = " ".join(part for part in (error.problem, error.context) if part)
    return f"{said}; indent with spaces" if r"character '\t'" in problem else said


class _Reader:
    """Turns the nodes of one YAML text into plain values."""

    def __init__(self, into: SettingsFile, name: str) -> None:
        self.into = into
        self.name = name
        self.read = 0
        self.yaml = YAML(typ="safe", pure=True)
        self.yaml.Resolver = _CoreSchema
        self.yaml.Composer = _BoundedComposer

    def values(self, text: str) -> Any:
        if len(text) > LARGEST_BYTES:
            raise _Refused(f"it is larger than {LARGEST_BYTES >> 20} MiB", 1)
        if old := _OLD_VERSION.match(text):
            what = f"{old[0].strip()} is not read: settings are YAML 1.2, where 0123 is 123 and yes is text;"
            raise _Refused(f"{what} leave the line out", 1)
        node = self.yaml.compose(text)
        return None if node is None else self._plain(node, (), ())

    def _plain(self, node: Node, path: KeyPath, above: tuple[Node, ...]) -> Any:
        line = node.start_mark.line + 1
        self._count(1, line)
        self.into.places.setdefault(path, (self.name, line))
        if any(node is other for other in above):
            return self._refused(path, "refers to itself")
        if len(above) > MOST_LEVELS:  # aliases reach deeper than what is written
            raise _Refused(f"it is nested too deeply (allowed: {MOST_LEVELS} levels of lists and mappings)", line)
        tag = str(node.tag)
        if tag != "!" and tag.removeprefix(_TAG) not in _PLAIN_TAGS[type(node)]:
            return self._refused(path, f"has the tag {tag}; only plain YAML values are read")
        if isinstance(node, SequenceNode):
            return [self._plain(item, (*path, i), (*above, node)) for i, item in enumerate(node.value)]
        if isinstance(node, MappingNode):
            return self._mapping(node, path, above)
        assert isinstance(node, ScalarNode)
        return self._scalar(node, path)

    def _count(self, values: int, line: int) -> None:
        self.read += values
        if self.read > MOST_VALUES:
            raise _Refused(TOO_MANY, line)

    def _refused(self, path: KeyPath, message: str) -> None:
        self.into.problems.append(self.into.problem(path, message))
        self.into.refused.add(path)

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        try:
            value = self.yaml.constructor.construct_object(node)
        except _UNCHECKED:  # of thousands of digits, or `!!bool x`
            value = LARGEST_WHOLE + 1 if re.fullmatch(_SCALARS["int"][1], node.value) else node.value
        problem = _beyond_reason(value, node.value)
        if problem is None:
            return value
        self._refused(path, problem)
        return None

    def _mapping(self, node: MappingNode, path: KeyPath, above: tuple[Node, ...]) -> dict[str, Any] | None:
        if node.merge is None:  # else an alias led here before, and what it merges stands in it
            self._check_unique(node, path)
        merged = _merged(node, above)
        if merged is None:
            self._refused(path, "merges (`<<`) itself")
            return None
        self._count(merged, node.start_mark.line + 1)
        self.yaml.constructor.flatten_mapping(node)
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._odd_key(path, key_node, "a key that is not a word")
                continue
            key = str(key_node.value)
            if (problem := _unreadable(key)) is not None or "\n" in key:
                self._odd_key(path, key_node, f"the key {shown(key)}, which {problem or 'goes over several lines'}")
                continue
            self.into.places[(*path, key)] = (self.name, key_node.start_mark.line + 1)
            values[key] = self._plain(value_node, (*path, key), (*above, node))
        return values

    def _odd_key(self, path: KeyPath, key_node: Node, what: str) -> None:
        line = key_node.start_mark.line + 1
        self.into.problems.append(Problem(written(path) or "(file)", f"has {what}").at(self.name, line))

    def _check_unique(self, node: MappingNode, path: KeyPath) -> None:
        own: dict[str, int] = {}
        for item in list(node.value):
            key, line = item[0].value, item[0].start_mark.line + 1
            if not isinstance(key, str):
                continue
            if key in own:
                message = f"stands twice; the first time in line {own[key]}"
                self.into.problems.append(Problem(written((*path, key)), message).at(self.name, line))
                if key == "<<":  # ruamel would end here
                    node.value.remove(item)
            own.setdefault(key, line)


def _merged(node: MappingNode, above: tuple[Node, ...]) -> int | None:
    """How many entries merge keys bring into a mapping; None where it merges itself."""
    entries = node.value if node.merge is None else []
    count = 0
    for key_node, value_node in entries:
        if key_node.value != "<<":
            continue
        sources = value_node.value if isinstance(value_node, SequenceNode) else [value_node]
        for source in sources:
            if isinstance(source, MappingNode):
                if source is node or any(source is other for other in above):
                    return None
                inner = _merged(source, (*above, node))
                if inner is None:
                    return None
                count += len(source.value) + inner
                if count > MOST_VALUES:
                    return count
    return count


def _beyond_reason(value: Any, text: str) -> str | None:
    """What is wrong with a scalar, whatever setting it stands for; None where nothing is."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, got {text}"
    if isinstance(value, float) and abs(value) > LARGEST_NUMBER:
        return f"must be a number of at most {LARGEST_NUMBER:g}, got {shortened(text)}"
    if isinstance(value, int) and not -LARGEST_WHOLE <= value <= LARGEST_WHOLE:
        return f"must be a whole number of at most 2^63 - 1, got {shortened(text)}"
    problem = _unreadable(value) if isinstance(value, str) else None
    return None if problem is None else f"is a text which {problem}"


def _unreadable(text: str) -> str | None:
    odd = next((c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs")), None)
    if odd is not None:
        return f"holds the character #x{ord(odd):02x}"
    size = len(text.encode())
    return None if size <= LONGEST_TEXT else f"has {size:,} bytes (allowed: {LONGEST_TEXT:,})"


def shortened(text: str, letters: int = 40) -> str:
    """A text as a message shows it: its beginning and how long it is."""
    return text if len(text) <= letters else f"{text[:letters]}... ({len(text):,} characters)"
