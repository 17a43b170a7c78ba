"""From a line of the ledger to its event.

A line is read by what it holds: of a kind that is not known here its time and trial are kept, of a known one the
fields that are known, so that ledgers of older and of newer versions are read.
"""

from __future__ import annotations

import json
import math
import re
from collections import abc
from collections.abc import Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from akdtune.records.check_words import body_of, holds
from akdtune.records.ledger.events import Event, fields_of
from akdtune.records.ledger.kinds import CLASSES, KINDS

_TYPES = {kind: get_type_hints(kind) for kind in CLASSES}


def parse(line: bytes) -> Event | None:
    """The event in a line of the ledger; None where the line is not whole, not as it was written, or holds none.

    Earlier versions wrote on behind half a line that a full disk had left: what follows there counts.
    """
    line, plain = _whole(line)
    return None if plain is None or holds(line) is False else of_plain(plain)


def as_it_stands(line: bytes) -> Event | None:
    """As `parse`, whatever its check word says."""
    plain = _whole(line)[1]
    return None if plain is None else of_plain(plain)


_REAL = rb"-?(?:0|[1-9][0-9]*)\.[0-9]+(?:e[-+][0-9]+)?"
_EPOCH = re.compile(
    rb'\{"time": %b, "event": "epoch", "trial_id": "([^"\\\x00-\x1f]*)", "epoch": (0|[1-9][0-9]*), '
    rb'"value": (null|%b), "score": (null|%b)\}\n' % (_REAL, _REAL, _REAL)
)


def epoch_of(line: bytes) -> tuple[str, int, float | None, float | None] | None:
    """Trial, epoch, value and score of a line that holds an epoch as it is written today; None for any other line.

    What `parse` says of such a line in a tenth of its time: epochs are nearly all of a ledger.
    """
    parts = line.split(b'"', _PARTS)
    if len(parts) == _PARTS and parts[1:8:2] == _HEAD and parts[11:18:2] == _TAIL and body_of(line) is not None:
        found: tuple[bytes, ...] = (parts[9], parts[12][2:-2], parts[14][2:-2], parts[16][2:-2])
        if b"\\" in parts[9]:
            return None
    elif len(parts) == _PARTS - 4 and (matched := _EPOCH.fullmatch(line)) is not None:
        found = matched.groups()
    else:
        return None
    trial_id, epoch, value, score = found
    if not (value == b"null" or b"." in value) or not (score == b"null" or b"." in score):  # as whole numbers
        return None
    try:
        known = trial_id.decode()
        return known, int(epoch), None if value == b"null" else float(value), None if score == b"null" else float(score)
    except ValueError:
        return None


_PARTS = 21
"""Of a line with its check word, between quotation marks; one of an earlier version has four less."""
_HEAD, _TAIL = [b"time", b"event", b"epoch", b"trial_id"], [b"epoch", b"value", b"score", b"check"]


def planned_in(line: bytes) -> tuple[str, bytes] | None:
    """Trial and row, as JSON, of a line that holds a planned trial as it is written today; None for any other line."""
    begins = line.find(_PLAN, 0, 300)
    if begins < 0 or (head := _PLANNED.fullmatch(line, 0, begins)) is None or (body := body_of(line)) is None:
        return None
    return head[1].decode("ascii"), body[begins + len(_PLAN) :]


_PLAN = b', "plan": '
_PLANNED = re.compile(rb'\{"time": %b, "event": "planned", "trial_id": "([\w.-]+)"' % _REAL)


def _whole(line: bytes) -> tuple[bytes, dict[str, Any] | None]:
    """The part of a line that is an event, and what it holds."""
    plain = _loaded(line)
    if plain is None and (begins := line.rfind(_BEGINS)) > 0:
        line = line[begins:]
        plain = _loaded(line)
    return line, plain if isinstance(plain, dict) and "event" in plain else None


_BEGINS = b'{"time": '


def _loaded(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError):
        return None


def of_plain(plain: Mapping[str, Any]) -> Event:
    """The inverse of `Event.plain`."""
    kind, time = str(plain["event"]), plain.get("time", math.nan)
    if type(time) is not float and not _fits(float, time):
        time = math.nan
    trial_id = plain.get("trial_id", "")
    if not isinstance(trial_id, str):
        return Event(time=time, kind=kind)
    known = KINDS.get(kind, Event)
    plainly, types = _PLAINLY[known], _TYPES[known]
    values = {name: plain[name] for name in plainly if name in plain}
    try:
        if all(type(value) in plainly[name] or _fits(types[name], value) for name, value in values.items()):
            return known(time=time, kind=kind, **values)
    except (KeyError, TypeError):  # it lacks what its kind holds, or a part of it holds that in another form
        pass
    return Event(time=time, kind=kind, trial_id=trial_id)


def _fits(kind: Any, value: Any) -> bool:
    """Whether a value of JSON is of a field's type."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(part, value) for part in parts)
    if origin is Literal:
        return value in parts if isinstance(value, str) else False
    if kind in (None, NoneType):
        return value is None
    if kind in (int, float):
        return isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if origin in (dict, abc.Mapping):
        return isinstance(value, dict)
    if origin is abc.Sequence:
        return isinstance(value, list) and all(_fits(parts[0], item) for item in value)
    if is_dataclass(kind):
        return isinstance(value, dict) and all(
            _fits(of, value[name])
            for name, of in get_type_hints(kind).items()  # a missing one raises
        )
    return kind is Any or isinstance(value, kind)


def _json_types(kind: Any) -> frozenset[type]:
    """Types of JSON values that are of a field's type whatever they hold; of others `_fits` says it."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return frozenset().union(*map(_json_types, parts))
    if origin in (dict, abc.Mapping):
        return frozenset({dict})
    if kind is float:
        return frozenset({int, float})
    return frozenset({kind} if kind in (int, str, bool, NoneType) else ())


_PLAINLY = {kind: {name: _json_types(_TYPES[kind][name]) for name, _ in fields_of(kind)} for kind in CLASSES}
