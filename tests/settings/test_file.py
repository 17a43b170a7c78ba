"""YAML as settings read it: the scalars of YAML 1.2, where each value stands, what is refused; and written again."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import yaml

from akdtune.errors import SettingsError
from akdtune.folders import packaged
from akdtune.settings import file as settings_file
from akdtune.settings import overrides, yaml_text
from akdtune.settings.file import COMMAND_LINE, SettingsFile
from akdtune.study import spec
from akdtune.study.written import export_yaml


def parsed(text: str, name: str = "s.yaml") -> tuple[Any, list[str]]:
    """The values and the problems of a text."""
    file = SettingsFile(name)
    try:
        value = yaml_text.parse(text, file, name)
    except SettingsError as error:
        return None, list(map(str, error.problems))
    return value, list(map(str, file.problems))


SCALARS: dict[str, Any] = {
    # What YAML 1.1 reads otherwise.
    "on": "on", "off": "off", "yes": "yes", "No": "No", "y": "y", "n": "n",
    "0123": 123, "08": 8, "0o17": 15, "1:30": "1:30", "1_28": "1_28", "1_000.5": "1_000.5", "0b11": "0b11",
    "-0x1f": "-0x1f", "1e-3": 0.001, "1E5": 100000.0, "12e03": 12000.0, "1.e3": 1000.0, "=": "=",
    "2020-01-01": "2020-01-01", "2020-01-01T10:00:00Z": "2020-01-01T10:00:00Z",
    # And what has not changed.
    "true": True, "True": True, "FALSE": False, "null": None, "Null": None, "~": None, "": None, "tRue": "tRue",
    "1": 1, "+1": 1, "-7": -7, "0x1f": 31, "1.5": 1.5, ".5": 0.5, "5.": 5.0, "-1.0e-05": -1e-5, "1.5E+3": 1500.0,
    "'1'": "1", '"on"': "on", "1.5.2": "1.5.2", "0.1e": "0.1e", "0x": "0x", "+": "+", ".": ".", "_1": "_1", "é": "é",
    "!!str 3": "3", "!!int '3'": 3, "!!float 3": 3.0, "!!null ''": None, "!!seq [1]": [1], "!!map {a: 1}": {"a": 1},
    "! 1": 1,
}  # fmt: skip


@pytest.mark.parametrize("written", SCALARS)
def test_a_scalar_is_what_yaml_1_2_says(written: str) -> None:
    """In a file and on the command line alike."""
    expected = SCALARS[written]
    value, problems = parsed(f"a: {written}")
    assert (value, problems) == ({"a": expected}, [])
    assert type(value["a"]) is type(expected)
    file = SettingsFile("s.yaml", {"data": "before"})
    overrides.override(file, f"data={written}")
    assert (file.values, file.problems) == ({"data": expected}, [])
    assert type(file.values["data"]) is type(expected)


def test_a_truth_value_of_yaml_1_1_is_refused_in_words() -> None:
    with pytest.raises(SettingsError) as caught:
        spec.load("digits_angular", ["data.download=on", "views.learnable_margin=no", "training.epochs=1_000"])
    assert [str(problem) for problem in caught.value.problems] == [
        "command line: data.download: must be true or false, got 'on'; write true",
        "command line: views.learnable_margin: must be true or false, got 'no'; write false",
        "command line: training.epochs: must be a whole number, got '1_000'; write 1000",
    ]


def test_words_of_yaml_1_1_are_names_where_text_is_meant() -> None:
    study = spec.load("digits_angular", ["study=on"])
    assert study.name == "on"


TWICE = "stands twice; the first time in line"
TAG = "only plain YAML values are read"
TOO_DEEP = "it is nested too deeply (allowed: 50 levels of lists and mappings)"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 1\na: 2", f"s.yaml:3: a: {TWICE} 1"),
        ("c:\n  d: 1\n  d: 2", f"s.yaml:3: c.d: {TWICE} 2"),
        ("c: {d: 1}\na:\n  <<: {b: 1}\n  <<: {c: 2}", f"s.yaml:4: a.<<: {TWICE} 3"),
        ("a: &a [*a]", "s.yaml:1: a[0]: refers to itself"),
        ("a: &a {b: *a}", "s.yaml:1: a.b: refers to itself"),
        ("a: !!python/object:os.x {}", f"s.yaml:1: a: has the tag tag:yaml.org,2002:python/object:os.x; {TAG}"),
        ("a: !!python/object/apply:os.system [ls]",
         f"s.yaml:1: a: has the tag tag:yaml.org,2002:python/object/apply:os.system; {TAG}"),
        ("a:\n  - !!python/name:os.system x",
         f"s.yaml:2: a[0]: has the tag tag:yaml.org,2002:python/name:os.system; {TAG}"),
        ("a: !!binary aGk=", f"s.yaml:1: a: has the tag tag:yaml.org,2002:binary; {TAG}"),
        ("a: !!timestamp 2020-01-01", f"s.yaml:1: a: has the tag tag:yaml.org,2002:timestamp; {TAG}"),
        ("a: !!set {b}", f"s.yaml:1: a: has the tag tag:yaml.org,2002:set; {TAG}"),
        ("a: !own 1", f"s.yaml:1: a: has the tag !own; {TAG}"),
        ("a: .inf", "s.yaml:1: a: must be a finite number, got .inf"),
        ("a: .nan", "s.yaml:1: a: must be a finite number, got .nan"),
        ("a: 1e400", "s.yaml:1: a: must be a finite number, got 1e400"),
        ("b: {? [1, 2] : 3}", "s.yaml:1: b: has a key that is not a word"),
        ('b:\n  "a\\0": 1', "s.yaml:2: b: has the key 'a\\x00', which holds the character #x00"),
        ('"a\\nb": 1', "s.yaml:1: (file): has the key 'a\\nb', which goes over several lines"),
        ('a: "x\\0y"', "s.yaml:1: a: is a text which holds the character #x00"),
        ('a: "\\ud800"', "s.yaml:1: a: is a text which holds the character #xd800"),
        ("a: " + "ä" * 2049, "s.yaml:1: a: is a text which has 4,098 bytes (allowed: 4,096)"),
        ("a: 1e31", "s.yaml:1: a: must be a number of at most 1e+30, got 1e31"),
        ("a: 9223372036854775808", "s.yaml:1: a: must be a whole number of at most 2^63 - 1, got 9223372036854775808"),
        ("a: -1" + "0" * 5000, "s.yaml:1: a: must be a whole number of at most 2^63 - 1, got -1" + "0" * 38
         + "... (5,002 characters)"),
        ("b: &b {<<: *b, c: 1}", "s.yaml:1: b: merges (`<<`) itself"),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_named_and_the_rest_is_read(text: str, problem: str) -> None:
    value, problems = parsed(text + "\nlast: 1")
    assert problems == [problem]
    assert value["last"] == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: *x", "1: (YAML): cannot be parsed: found undefined alias 'x'"),
        ("a: {<<: 3}",
         "1: (YAML): cannot be parsed: expected a mapping or list of mappings for merging, but found scalar while"
         " constructing a mapping"),
        ("a: 1\n---\nb: 2", "2: (YAML): cannot be parsed: it holds several documents (`---`); a settings file is one"),
        ("a: b: c", "1: (YAML): cannot be parsed: mapping values are not allowed here"),
        ("a: [1\nb: 2", "2: (YAML): cannot be parsed: expected ',' or ']', but got ':' while parsing a flow sequence"),
        ("a:\n\tb: 1",
         "2: (YAML): cannot be parsed: found character '\\t' that cannot start any token while scanning for the next"
         " token; indent with spaces"),
        ("a: 'x", "1: (YAML): cannot be parsed: found unexpected end of stream while scanning a quoted scalar"),
        ("a: 1\n\nb: \x01", "3: (YAML): cannot be parsed: it holds the character #x01, is this a text file?"),
        ("a: " + "[" * 3000, f"1: (YAML): cannot be parsed: {TOO_DEEP}"),
        ("a: 1\nb:\n" + "".join(f"{' ' * level}c:\n" for level in range(1, 99)),
         f"52: (YAML): cannot be parsed: {TOO_DEEP}"),
        ("%YAML 1.1\n---\na: 1", "1: (YAML): cannot be parsed: %YAML 1.1 is not read: settings are YAML 1.2, where 0123"
         " is 123 and yes is text; leave the line out"),
        ("a: [" + ", ".join("1" * 20_000) + "]",
         "1: (YAML): cannot be parsed: it has more than 10,000 values once its aliases are followed"),
        ("a: 1 #" + "x" * 2**20, "1: (YAML): cannot be parsed: it is larger than 1 MiB"),
    ],
)  # fmt: skip
def test_what_cannot_be_parsed(text: str, problem: str) -> None:
    assert parsed(text) == (None, [f"s.yaml:{problem}"])
    on_the_command_line, words = parsed(text, COMMAND_LINE)
    assert on_the_command_line is None
    assert words == [f"{COMMAND_LINE}: {problem.partition(' ')[2]}"]


def test_aliases_of_aliases_end_somewhere() -> None:
    levels = ["a0: &a0 [" + ", ".join("x" * 9) + "]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    value, problems = parsed("\n".join(levels))
    assert value is None
    what = "it has more than 10,000 values once its aliases are followed"
    assert problems == [f"s.yaml:1: (YAML): cannot be parsed: {what}"]


@pytest.mark.parametrize(
    "inner", ["[*x, *x, *x, *x, *x, *x, *x, *x, *x]", "[{<<: [*x, *x, *x, *x, *x, *x, *x, *x]}, *x]"]
)
def test_merged_keys_end_somewhere(inner: str) -> None:
    lines = ["x0: &x0 {" + ", ".join(f"k{i}: 1" for i in range(100)) + "}"]
    lines += [f"x{i}: &x{i} {{<<: {inner.replace('*x', f'*x{i - 1}')}}}" for i in range(1, 12)]
    assert parsed("\n".join(lines))[1] == [
        "s.yaml:3: (YAML): cannot be parsed: it has more than 10,000 values once its aliases are followed"
    ]


def test_merged_keys_give_way_to_own_ones() -> None:
    text = "x: &x {w: 1, v: 2}\na: &a {<<: *x, w: 3}\nb: *a\nc: {<<: [*a, {w: 9, u: 5}], v: 7}"
    value, problems = parsed(text)
    assert problems == []
    assert value["a"] == value["b"] == {"w": 3, "v": 2}
    assert value["c"] == {"w": 3, "v": 7, "u": 5}


def test_every_value_has_its_line() -> None:
    file = SettingsFile("s.yaml")
    yaml_text.parse("a: 1\nb:\n  - {c: 2}\n  -\n    d: [3,\n        4]\n", file, "s.yaml")
    lines = {settings_file.written(path): line for path, (_, line) in file.places.items()}
    assert lines == {
        "": 1, "a": 1, "b": 2, "b[0]": 3, "b[0].c": 3, "b[1]": 5, "b[1].d": 5, "b[1].d[0]": 5, "b[1].d[1]": 6,
    }  # fmt: skip


class YAML11(yaml.SafeLoader):
    """YAML 1.1, but for `5e-4`, which that takes for text: how settings were read before."""


YAML11.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


@pytest.mark.parametrize("name", packaged())
def test_a_packaged_file_is_the_same_in_both_versions(name: str) -> None:
    path = packaged()[name]
    file = yaml_text.read(path, name)
    assert file.problems == []
    assert repr(file.values) == repr(yaml.load(path.read_text(encoding="utf-8"), YAML11))


def test_what_is_exported_is_read_as_it_was() -> None:
    """Text that looks like a number, a truth value or a date in either version of YAML, and every kind of number."""
    draw = random.Random(0)
    texts = [*SCALARS, "<<", "null ", " x", "a: b", "# x", "a\nb", "- x", "...", "---", "-.inf", "1e400"]
    texts += ["".join(draw.choices("0123456789eE.+-_xob:infa ", k=draw.randint(1, 8))) for _ in range(2000)]
    numbers: list[Any] = [draw.uniform(-1, 1) * 10 ** draw.randint(-300, 30) for _ in range(500)]
    numbers += [0, -0.0, 1e22, 1e-5, 1e16, 10**18, True, False, None, [], {}, [1, [2.0]]]
    settings = {"data": "digits", "teacher": {"network": "none"}, "student": texts, "views": numbers}
    text = export_yaml({"study": "s"}, settings | {"method": "1e5", "training": {}})
    value, problems = parsed(text)
    assert problems == []
    assert value["student"] == texts
    assert repr(value["views"]) == repr(numbers)
    assert value["method"] == "1e5"
    assert yaml.safe_load(text)["student"] == texts  # and by those who still read YAML 1.1
