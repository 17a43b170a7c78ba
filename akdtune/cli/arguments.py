"""Arguments in another form than ours, answered with the right one: `--trials 48`, a command that is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from typer.core import TyperCommand, TyperGroup
from typing_extensions import override

from akdtune.errors import AkdtuneError, nearest, unknown_name

_OPTIONS = {
    "--dir": ("--log-dir", "--logdir", "--out", "--out-dir", "--outdir", "--output", "--output-dir", "--results-dir",
              "--run-dir", "--save-dir", "-d", "-o"),
    "--new": ("--force", "--overwrite"),
}  # fmt: skip
"""What other tools call our options."""

_SENTENCES = {
    ("--continue", "--restart", "--restore", "--resume"): "the same command again goes on where it stopped",
    ("--check", "--dry-run", "--dryrun", "--plan"): "`akdtune plan` shows what a study would do",
    ("--config", "--file", "-c", "-f"): "the settings file stands alone, without an option before it",
    ("--name", "--study"): "a study's name is a setting: study=NAME",
    ("--quiet", "--verbose", "-q", "-v"): "there is nothing to set: in a pipe, a line is printed for each trial",
}

_COMMANDS = {
    "ls": "spaces", "list": "spaces", "studies": "spaces", "configs": "spaces", "search": "run", "start": "run",
    "train": "run", "tune": "run", "resume": "run", "continue": "run", "status": "show", "results": "show",
    "ps": "show", "log": "logs", "tail": "logs", "analyse": "analyze", "dry-run": "plan", "check": "plan",
    "datasets": "data", "models": "networks", "help": "--help", "version": "--version",
}  # fmt: skip
"""What other tools call our commands."""


class _Unknown(NamedTuple):
    """An option that a command does not have, as it was written."""

    option: str
    value: str | None

    @property
    def text(self) -> str:
        return self.option if self.value is None else f"{self.option} {self.value}"


class StudyCommand(TyperCommand):
    """A command that takes a settings file and overrides: an option that is none is answered with the override."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {name: parameter for parameter in self.params for name in [*parameter.opts, *parameter.secondary_opts]}
        takes_value = {name for name, parameter in known.items() if not getattr(parameter, "is_flag", True)}
        unknown, rest = _sorted_out(args, {*known, *ctx.help_option_names}, takes_value)
        if unknown and not ctx.resilient_parsing:
            raise AkdtuneError(_instead(unknown, rest, sorted(name for name in known if name[0] == "-"), ctx))
        return super().parse_args(ctx, args)


class Commands(TyperGroup):
    """A group of commands: one that is none is answered with the nearest, or with the command that runs a study."""

    @override
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise AkdtuneError(self._unknown(ctx, args))
        return super().resolve_command(ctx, args)

    def _unknown(self, ctx: Any, args: list[str]) -> str:
        name, known = args[0], self.list_commands(ctx)
        other = _COMMANDS.get(name.lower())
        if ctx.parent is None and other is not None:
            return f"unknown command '{name}'; did you mean `akdtune {' '.join([other, *args[1:]])}`?"
        if ctx.parent is None and _is_study(name):
            return f"unknown command '{name}'; did you mean `akdtune run {' '.join(args)}`?"
        return unknown_name("command", name, known) + f"; `{ctx.command_path} --help` says what each does"


def _sorted_out(args: Sequence[str], known: set[str], takes_value: set[str]) -> tuple[list[_Unknown], list[str]]:
    """The options that are none, with what seems to be their value, and the arguments that belong to nothing."""
    unknown: list[_Unknown] = []
    alone: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if word == "--":
            return unknown, [*alone, *rest]
        if not option.startswith("-") or _is_number(word) or len(option.strip("-")) == 0:
            alone.append(word)
        elif option in known:
            if option in takes_value and not equals and rest:
                rest.pop(0)
        elif equals:
            unknown.append(_Unknown(option, value))
        else:
            follows = bool(rest) and (not rest[0].startswith("-") or _is_number(rest[0])) and "=" not in rest[0]
            is_file = follows and _is_study(rest[0])
            unknown.append(_Unknown(option, rest.pop(0) if follows and not is_file else None))
    return unknown, alone


def _is_study(word: str) -> bool:
    """Whether a word is a settings file, or a packaged one."""
    from akdtune.folders import packaged

    return word.endswith((".yaml", ".yml")) or word in packaged()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _instead(unknown: Sequence[_Unknown], alone: Sequence[str], options: Sequence[str], ctx: Any) -> str:
    """One message for all options that a command does not have."""
    lines = []
    for one in unknown:
        source = next((word for word in [*alone, one.value] if word and "=" not in word), None)
        lines.append(f"{one.text}: there is no such option; {_meant(one, options, source)}")
    return "\n".join([*lines, f"(`{ctx.command_path} --help` lists the options)"])


def _meant(one: _Unknown, options: Sequence[str], source: str | None) -> str:
    from akdtune.settings.hints import right_form
    from akdtune.study import spec

    option = one.option.lower()
    for sentence in (sentence for words, sentence in _SENTENCES.items() if option in words):
        return sentence
    for ours in (ours for ours, words in _OPTIONS.items() if option in words and ours in options):
        return f"did you mean {ours if one.value is None else f'{ours} {one.value}'}?"
    values = spec.plain_values(source)
    key = option.lstrip("-")
    exact = right_form.overrides_meant(key, one.value, values, nearly=False)
    if not exact and (close := nearest(option, options)):
        return f"did you mean {close}?"
    found = exact or right_form.overrides_meant(key, one.value, values)
    return f"settings are written key=value: {right_form.said(found, '')}" if found else _no_setting(key)


def _no_setting(key: str) -> str:
    return f"settings are written key.path=value, and none is called '{key}' (`akdtune schema` lists them)"
