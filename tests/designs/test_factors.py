"""Ablation designs: every cell of small designs by name, fractions verified by enumeration, refusals in words."""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from akdtune.designs.factors import (
    Design,
    cells_of,
    defining_words,
    level_names,
    resolution_of,
    roman,
    short_names,
    smallest_fraction,
)
from akdtune.errors import AkdtuneError

TWO = {"views.inter": [True, False], "views.intra": [True, False]}
MIXED = {"views.inter": [True, False], "method.kd.weight": [0.9, 1.8, 2.7]}


def two_level(count: int) -> dict[str, list[bool]]:
    return {f"views.f{place}": [True, False] for place in range(count)}


def named(design: Design) -> dict[str, dict[str, Any]]:
    assert len({cell.name for cell in design.cells}) == len(design.cells)
    return {cell.name: dict(cell.changes) for cell in design.cells}


def test_full_factorial() -> None:
    design = cells_of("full_factorial", MIXED)
    assert [cell.name for cell in design.cells] == [
        "base",
        "weight=1.8",
        "weight=2.7",
        "inter=false",
        "inter=false, weight=1.8",
        "inter=false, weight=2.7",
    ]
    assert design.cells[4].changes == {"views.inter": False, "method.kd.weight": 1.8}
    assert design.cells[1].levels == design.cells[1].applied == {"views.inter": True, "method.kd.weight": 1.8}


def test_leave_one_out() -> None:
    assert named(cells_of("leave_one_out", MIXED)) == {
        "base": {},
        "inter=false": {"views.inter": False},
        "weight=1.8": {"method.kd.weight": 1.8},
        "weight=2.7": {"method.kd.weight": 2.7},
    }


def test_add_one_in() -> None:
    assert named(cells_of("add_one_in", {**TWO, "views.margin": [0.2, 0.1]})) == {
        "none": {"views.inter": False, "views.intra": False, "views.margin": 0.1},
        "+inter=true": {"views.intra": False, "views.margin": 0.1},
        "+intra=true": {"views.inter": False, "views.margin": 0.1},
        "+margin=0.2": {"views.inter": False, "views.intra": False},
        "base": {},
    }
    assert list(named(cells_of("add_one_in", {"views.inter": [True, False]}))) == ["none", "base"]


def test_path_goes_both_ways_and_shares_cells() -> None:
    factors = {**TWO, "views.margin": [0.2, 0.3]}
    design = cells_of("path", factors)
    assert named(design) == {
        "base": {},
        "forward 1: inter=false": {"views.inter": False},
        "forward 2: intra=false": {"views.inter": False, "views.intra": False},
        "end": {"views.inter": False, "views.intra": False, "views.margin": 0.3},
        "backward 1: inter=true": {"views.intra": False, "views.margin": 0.3},
        "backward 2: intra=true": {"views.margin": 0.3},
    }
    assert "inter=false -> intra=false -> margin=0.3" in design.notes[0]
    assert list(named(cells_of("path", {"views.inter": [True, False]}))) == ["base", "end"]


def test_arms() -> None:
    arms = {"angular": {}, "tekap x2": {"views": {"name": "tekap"}, "views.number": 2}}
    design = cells_of("arms", {}, arms=arms)
    assert named(design) == arms
    assert all(cell.levels is None and cell.applied == cell.changes for cell in design.cells)


def test_names_are_short_but_unique() -> None:
    assert short_names(["views.weight", "method.kd.weight", "views"]) == {
        "views.weight": "views.weight",
        "method.kd.weight": "method.kd.weight",
        "views": "views",
    }
    angular = [{"name": "angular", "num_views": 3, "inter": True}, {"name": "angular", "num_views": 5, "inter": True}]
    assert level_names([*angular, "none", None, [{"name": "kd"}, {"name": "crd"}], {"a": 1}]) == [
        "angular(num_views=3)",
        "angular(num_views=5)",
        "none",
        "null",
        "kd+crd",
        "a=1",
    ]
    assert level_names([1, "1"]) == ["1", "1#2"]


@pytest.mark.parametrize(
    ("count", "resolution", "runs", "reached"),
    [
        (3, "III", 4, "III"),
        (7, "III", 8, "III"),
        (4, "IV", 8, "IV"),
        (8, "IV", 16, "IV"),
        (5, "V", 16, "V"),
        (6, "V", 32, "VI"),  # no 16 runs will do, and 32 give more than was asked for
        (8, "V", 64, "V"),
        (15, 3, 16, "III"),
        (16, "iv", 32, "IV"),
    ],
)
def test_fractions_of_the_textbooks(count: int, resolution: Any, runs: int, reached: str) -> None:
    design = cells_of("fractional_factorial", two_level(count), resolution=resolution)
    assert (len(design.cells), design.resolution) == (runs, reached)
    assert design.cells[0].name == "base"
    assert f"{runs} of {2**count} cells" in design.notes[0]
    assert not any("smaller" in note for note in design.notes)


@pytest.mark.parametrize(("count", "wanted"), [(5, 3), (6, 4), (7, 5), (9, 5)])
def test_a_fraction_has_its_strength(count: int, wanted: int) -> None:
    """Every choice of resolution - 1 factors sees each of its level combinations equally often."""
    design = cells_of("fractional_factorial", two_level(count), resolution=wanted)
    rows = [tuple((cell.levels or {}).values()) for cell in design.cells]
    for chosen in itertools.combinations(range(count), wanted - 1):
        seen = [tuple(row[place] for place in chosen) for row in rows]
        assert all(seen.count(total) == len(rows) / 2 ** (wanted - 1) for total in set(seen))
        assert len(set(seen)) == 2 ** (wanted - 1)


@pytest.mark.parametrize(("count", "wanted"), [(3, 3), (5, 3), (6, 4), (6, 5), (7, 5)])
def test_no_smaller_fraction_exists(count: int, wanted: int) -> None:
    columns, reached, proven = smallest_fraction(count, wanted)
    assert columns is not None and proven and reached == resolution_of(columns) >= wanted
    base = max(columns).bit_length()
    for fewer in range(1, base):
        units = [1 << bit for bit in range(fewer)]
        for rest in itertools.combinations(range(1, 2**fewer), count - fewer):
            assert resolution_of([*units, *rest]) < wanted


def test_aliases_are_those_of_the_columns() -> None:
    """Two effects are one line exactly where their contrast columns are the same, or opposite, over all cells."""
    design = cells_of("fractional_factorial", two_level(7), resolution="III")
    names = [f"f{place}" for place in range(7)]
    rows = [[1 if level else -1 for level in (cell.levels or {}).values()] for cell in design.cells]
    columns: dict[tuple[int, ...], set[str]] = {}
    for size in (1, 2):
        for chosen in itertools.combinations(range(7), size):
            column = tuple(math.prod(row[place] for place in chosen) for row in rows)
            columns.setdefault(column, set()).add("*".join(names[place] for place in chosen))
    assert {frozenset(line.split(" = ")) for line in design.aliases} == {frozenset(pair) for pair in columns.values()}


def words_by_length(rows: Sequence[Sequence[float]]) -> list[int]:
    """How many sets of so many factors are words: their columns multiply to the same sign in all cells."""
    places = range(len(rows[0]))
    counts = [0] * len(places)
    for size in range(1, len(places) + 1):
        for chosen in itertools.combinations(places, size):
            counts[size - 1] += len({math.prod(row[at] for at in chosen) for row in rows}) == 1
    return counts


FEWER_SHORT_WORDS = {(4, 3), (8, 3), (9, 3), (5, 4), (6, 5), (7, 5), (9, 5)}
"""Factors and resolution for which ours aliases less than pyDOE's in as many runs."""


@pytest.mark.parametrize("wanted", [3, 4, 5])
@pytest.mark.parametrize("count", range(3, 10))
def test_fractions_are_as_small_and_as_strong_as_pydoes(count: int, wanted: int) -> None:
    """As many runs, the same numbers of words by length (or fewer short ones), and aliases as pyDOE reads them."""
    pydoe = pytest.importorskip("pydoe", reason="needs Python 3.11")
    design = cells_of("fractional_factorial", two_level(count), resolution=wanted)
    ours = [[1 if level else -1 for level in (cell.levels or {}).values()] for cell in design.cells]
    theirs = pydoe.fracfact_by_res(count, wanted)
    assert theirs.shape == (len(ours), count)
    assert sorted(map(sum, theirs.T)) == [0] * count
    words, expected = words_by_length(ours), words_by_length(theirs.tolist())
    assert sum(words) == sum(expected) == 2**count // len(ours) - 1
    assert (words < expected) == ((count, wanted) in FEWER_SHORT_WORDS)
    assert words <= expected  # the fewest of the shortest, then of the next
    if len(ours) == 2**count:  # both are the full design
        assert design.resolution is None
        return
    reached = next(length for length, number in enumerate(words, 1) if number)
    assert design.resolution == roman(reached)
    assert reached >= wanted
    # By pyDOE's own reading of our design, aliases are those that are listed.
    aliases, _ = pydoe.fracfact_aliasing(np.array(ours, float))
    letters = {letter: f"f{place}" for place, letter in enumerate(string.ascii_lowercase[:count])}
    short = ([effect for effect in line.split(" = ") if len(effect) <= 2] for line in aliases)
    read = {frozenset("*".join(letters[at] for at in effect) for effect in line) for line in short if len(line) > 1}
    assert {frozenset(line.split(" = ")) for line in design.aliases} == read


def test_the_defining_relation_in_factor_names() -> None:
    design = cells_of("fractional_factorial", {**TWO, "views.margin": [0.2, 0.3]}, resolution="III")
    assert design.aliases == ["inter = intra*margin", "intra = inter*margin", "margin = inter*intra"]
    assert "I = inter*intra*margin" in design.notes[0]
    assert defining_words([1, 2, 3]) == [0b111]
    assert [roman(number) for number in (3, 4, 5, 6, 9, 11)] == ["III", "IV", "V", "VI", "IX", "XI"]


def test_where_no_fraction_exists_the_design_is_full() -> None:
    design = cells_of("fractional_factorial", two_level(3), resolution="V")
    assert [cell.name for cell in design.cells] == [c.name for c in cells_of("full_factorial", two_level(3)).cells]
    assert design.resolution is None
    assert design.notes == ["no fraction of 3 two-level factors has resolution V: this is the full design"]


@pytest.mark.parametrize(
    ("design", "factors", "given", "message"),
    [
        ("leave_one_ot", TWO, {}, "did you mean 'leave_one_out'"),
        ("leave_one_out", {}, {}, "at least one key path"),
        (
            "leave_one_out",
            {"inter": [True, False]},
            {},
            "must begin with one of student, views, method, selection, training",
        ),
        ("leave_one_out", {"views..inter": [True, False]}, {}, "is no key path"),
        ("leave_one_out", {"views.inter": True}, {}, "must be a list of levels"),
        ("leave_one_out", {"views.inter": [True]}, {}, "at least two levels"),
        ("leave_one_out", {"views.margin": [0.2, 0.3, 0.2]}, {}, "levels must differ"),
        ("leave_one_out", TWO, {"resolution": 3}, "goes with fractional_factorial only"),
        ("leave_one_out", TWO, {"arms": {"a": {}}}, "the design 'arms' only"),
        ("fractional_factorial", TWO, {}, "needs a resolution: III, IV or V"),
        ("fractional_factorial", TWO, {"resolution": "VI"}, "must be III, IV or V, got 'VI'"),
        ("fractional_factorial", TWO, {"resolution": True}, "must be III, IV or V"),
        ("fractional_factorial", MIXED, {"resolution": 3}, "exactly two levels, got 3"),
        ("fractional_factorial", two_level(17), {"resolution": 3}, "at most 16 factors, got 17"),
        ("full_factorial", two_level(13), {}, "8192 cells"),
        ("arms", TWO, {"arms": {"a": {}}}, "no factors"),
        ("arms", {}, {}, "at least one name"),
        ("arms", {}, {"arms": {"a": 3}}, "arms.a: must be a mapping"),
        ("arms", {}, {"arms": {"a": {"data.name": "digits"}}}, "arms.a: 'data.name' is no key path"),
    ],
)
def test_refusals(design: str, factors: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(AkdtuneError) as raised:
        cells_of(design, factors, **given)
    assert message in str(raised.value)
