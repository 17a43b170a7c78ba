"""How runs are written follows from settings, environment and the SDK's files; no server is asked here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from akdtune.tracking import mode
from akdtune.tracking.mode import (
    Decision,
    decide,
    environment,
    give_up,
    key_place,
    mode_of_trial,
    read_decision,
    server,
)
from akdtune.tracking.study import StudyTracking, notice, plan_line

KEY = "0123456789abcdef0123456789abcdef01234567"
AUTO = {"wandb": {"project": "akdtune", "mode": "auto"}}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a working directory that hold nothing."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ("online", "online"), ("run", "online"), ("shared", "online"), ("offline", "offline"), ("dryrun", "offline"),
        ("DryRun", "offline"), ("disabled", "disabled"), ("nonsense", "offline"),
    ],
)  # fmt: skip
def test_the_variable_says_which_mode(said: str, mode: str, key: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", said)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert decide(AUTO).mode == mode
    assert decide({"wandb": {"mode": "offline"}}) == Decision("offline", "tracking.wandb.mode is offline")
    assert decide({"wandb": None}).mode == "disabled"


def test_an_unknown_mode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    assert not decide(AUTO).asked
    assert "WANDB_MODE is 'nonsense', which is none of online, run, shared, offline, dryrun, disabled" in str(
        notice(AUTO)
    )


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("[default]\nmode = offline\n", "offline"),
        ("[default]\nmode = disabled\n", "disabled"),
        ("[default]\ndisabled = true\n", "disabled"),
        ("[default]\nentity = me%\n", "online"),
        ("no section", "online"),
        ("", "online"),
    ],
)
def test_a_settings_file_of_the_sdk_counts(
    text: str, mode: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    for folder in (elsewhere / "home" / ".config" / "wandb", elsewhere / "wandb"):
        folder.mkdir(parents=True)
        (folder / "settings").write_text(text)
        assert decide(AUTO).mode == mode
        (folder / "settings").unlink()
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(elsewhere))
    (elsewhere / "settings").write_text(text)
    assert decide(AUTO).mode == mode
    monkeypatch.setenv("WANDB_MODE", "online")  # the environment counts more
    assert decide(AUTO).mode == "online"


# What the SDK itself makes of each environment, in one process: its mode, its server, and whether it finds a key there.
ASK_THE_SDK = """
import json, os, sys
import wandb
from wandb.sdk import wandb_setup
from wandb.sdk.lib import wbauth
clean = dict(os.environ)
answers = []
for folder, variables in json.loads(sys.argv[1]):
    os.environ.clear(); os.environ.update({**clean, **variables, "HOME": folder + "/home"})
    os.chdir(folder)
    wandb_setup._singleton = None
    settings = wandb_setup.singleton().settings
    auth = wbauth.authenticate_session(host=settings.base_url, source="x", prompt=False, update_session=False)
    answers.append([settings.mode, settings.base_url, auth is not None])
print(json.dumps(answers))
"""
NETRC = f"machine {{host}}\n  login user\n  password {KEY}\n"
RESOLUTIONS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "nothing": ({}, {}),
    "a key": ({}, {"WANDB_API_KEY": KEY}),
    "the variable": ({}, {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}),
    "a dry run": ({}, {"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}),
    "off": ({}, {"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}),
    "wandb offline": ({"wandb/settings": "[default]\nmode = offline\n"}, {"WANDB_API_KEY": KEY}),
    "wandb offline in a hidden folder": ({".wandb/settings": "[default]\nmode = offline\n"}, {"WANDB_API_KEY": KEY}),
    "of two folders the hidden one": (
        {"wandb/settings": "[default]\nmode = offline\n", ".wandb/other": ""}, {"WANDB_API_KEY": KEY}
    ),
    "wandb disabled": ({"wandb/settings": "[default]\nmode = disabled\n"}, {"WANDB_API_KEY": KEY}),
    "the user's file": ({"home/.config/wandb/settings": "[default]\nmode = offline\n"}, {"WANDB_API_KEY": KEY}),
    "wandb online here": (
        {"home/.config/wandb/settings": "[default]\nmode = offline\n", "wandb/settings": "[default]\nmode = online\n"},
        {"WANDB_API_KEY": KEY},
    ),
    "the variable before the file": (
        {"wandb/settings": "[default]\nmode = offline\n"}, {"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}
    ),
    "a word in a file that means nothing": ({"wandb/settings": "[default]\nmode = nonsense\n"}, {"WANDB_API_KEY": KEY}),
    "another section": ({"wandb/settings": "[other]\nmode = offline\n"}, {"WANDB_API_KEY": KEY}),
    "WANDB_CONFIG_DIR": ({"etc/settings": "[default]\nmode = offline\n"},
                         {"WANDB_API_KEY": KEY, "WANDB_CONFIG_DIR": "etc"}),
    "wandb login": ({"home/.netrc": NETRC.format(host="api.wandb.ai")}, {}),
    "wandb login to the new host": ({"home/.netrc": NETRC.format(host="api.forge.coreweave.com")}, {}),
    "_netrc": ({"home/_netrc": NETRC.format(host="api.wandb.ai")}, {}),
    "NETRC": ({"keys": NETRC.format(host="api.wandb.ai")}, {"NETRC": "keys"}),
    "a key for everything": ({"home/.netrc": f"default login user password {KEY}\n"}, {}),
    "a key for something else": ({"home/.netrc": NETRC.format(host="example.org")}, {}),
    "a key in a file": ({"wandb/settings": f"[default]\napi_key = {KEY}\n"}, {}),
    "wandb login --host": (
        {"home/.config/wandb/settings": "[default]\nbase_url = https://wandb.example.org\n",
         "home/.netrc": NETRC.format(host="wandb.example.org")}, {},
    ),
    "wandb login --host with a port": (
        {"home/.config/wandb/settings": "[default]\nbase_url = http://wandb.example.org:8080/\n",
         "home/.netrc": NETRC.format(host="wandb.example.org:8080")}, {},
    ),
    "wandb login --host, and a key for the public server alone": (
        {"home/.config/wandb/settings": "[default]\nbase_url = https://wandb.example.org\n",
         "home/.netrc": NETRC.format(host="api.wandb.ai")}, {},
    ),
    "WANDB_BASE_URL before the file": (
        {"home/.config/wandb/settings": "[default]\nbase_url = https://wandb.example.org\n",
         "home/.netrc": NETRC.format(host="other.example.org")}, {"WANDB_BASE_URL": "https://other.example.org"},
    ),
    "the public server by its former name": (
        {"home/.netrc": NETRC.format(host="api.forge.coreweave.com")}, {"WANDB_BASE_URL": "https://api.wandb.ai"},
    ),
    "the public server by its new name": (
        {"home/.netrc": NETRC.format(host="api.wandb.ai")}, {"WANDB_BASE_URL": "https://api.forge.coreweave.com"},
    ),
    "a token": ({"token": "x"}, {"WANDB_IDENTITY_TOKEN_FILE": "token"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def of_the_sdk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[object]]]:
    """Folder of each case, and what the installed SDK says there."""
    folders = {}
    for number, (name, (files, _)) in enumerate(RESOLUTIONS.items()):
        folder = tmp_path_factory.mktemp(f"case{number}")
        for path, text in {"home/x": "", **files}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        folders[name] = folder
    asked = json.dumps([[str(folders[name]), variables] for name, (_, variables) in RESOLUTIONS.items()])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_") and name != "NETRC"}
    command = [sys.executable, "-c", ASK_THE_SDK, asked]
    said = subprocess.run(command, env=kept, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    return {name: (folders[name], answer) for name, answer in zip(RESOLUTIONS, json.loads(said), strict=True)}


@pytest.mark.parametrize("case", RESOLUTIONS)
def test_auto_is_what_the_sdk_itself_would_do(
    case: str, of_the_sdk: dict[str, tuple[Path, list[object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, (mode_there, base_url, has_key) = of_the_sdk[case]
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.delenv("NETRC", raising=False)
    for name, value in RESOLUTIONS[case][1].items():
        monkeypatch.setenv(name, value)
    offline = mode_there in ("offline", "dryrun") or not has_key
    assert decide(AUTO).mode == ("disabled" if mode_there == "disabled" else "offline" if offline else "online")
    assert (key_place() is not None) == has_key
    if "base_url" in str(RESOLUTIONS[case]) or "WANDB_BASE_URL" in RESOLUTIONS[case][1]:
        assert server().rstrip("/") == base_url


def test_disabled_by_the_old_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert decide(AUTO) == Decision("disabled", "WANDB_DISABLED is disabled")
    monkeypatch.setenv("WANDB_DISABLED", "false")
    assert decide(AUTO).mode == "offline"


def test_where_a_key_is_found(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_place() is None
    assert "no API key" in str(notice(AUTO))
    file = elsewhere / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    file.write_bytes(b"machine \xff\xfe")  # not text
    assert key_place() is None
    file.write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    assert key_place() == str(file)
    assert decide(AUTO) == Decision("online", f"API key in {file}")
    assert notice(AUTO) is None
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert key_place() is None  # a server of one's own needs its own
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(elsewhere))
    (elsewhere / "settings").write_text("[default]\nbase_url = https://wandb.example.org\n")
    assert key_place() is None
    file.write_text("machine wandb.example.org login user password secret")
    assert key_place() == str(file)
    file.unlink()
    file.mkdir()
    assert key_place() is None


def test_the_plan_says_how_runs_will_be_written_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan_line({"wandb": None}) == "Weights & Biases: off (tracking.wandb is null)"
    assert plan_line(AUTO) == (
        "Weights & Biases: offline (no API key found (WANDB_API_KEY or ~/.netrc)); `akdtune wandb sync` uploads the "
        "runs later"
    )
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert plan_line(AUTO) == (
        "Weights & Biases: online (API key in WANDB_API_KEY); offline if the server does not answer when the study "
        "starts"
    )


def test_what_disturbs_the_sdk_is_not_handed_on(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    given = {"WANDB_API_KEY": KEY, "WANDB_MODE": "x", "WANDB_SERVICE": "gone", "WANDB_ENTITY": "team", "OTHER": "o"}
    for name, value in {**given, "WANDB_TAGS": "a,b"}.items():
        monkeypatch.setenv(name, value)
    ours = {name for name in environment("offline") if name.startswith("WANDB_")}
    assert ours == {"WANDB_ENTITY", "WANDB_TAGS"}
    assert environment("offline")["OTHER"] == "o"
    ours = {name for name in environment("online") if name.startswith("WANDB_")}
    assert ours == {"WANDB_API_KEY", "WANDB_ENTITY", "WANDB_TAGS"}
    monkeypatch.setenv("WANDB_TAGS", "a,")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(elsewhere))
    assert environment("offline")["WANDB_CONFIG_DIR"] == str(elsewhere)
    (elsewhere / "settings").write_bytes(b"\xff")
    assert environment("offline")["WANDB_CONFIG_DIR"] == "/dev/null"
    assert "WANDB_TAGS" not in environment("offline")


def test_a_server_that_is_gone_is_written_down_for_later_trials(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    online = {"wandb": {"project": "p", "mode": "online"}}
    assert mode_of_trial(online, elsewhere) == "online"
    mode.write_decision(elsewhere, Decision("online", "key"), {"project": "p"})
    assert mode_of_trial(online, elsewhere) == "online"
    give_up(elsewhere, f"no route for {KEY}")
    assert mode_of_trial(online, elsewhere) == "offline"
    assert read_decision(elsewhere) == (Decision("offline", "no route for ***", asked=False), {"project": "p"})
    give_up(elsewhere, "another reason")  # the first one stands
    assert (read_decision(elsewhere) or [Decision("online", "")])[0].why == "no route for ***"
    assert KEY not in (elsewhere / mode.DECISION_FILE).read_text()


@pytest.mark.parametrize("content", ["", "[]", "{", json.dumps({"mode": "x"}), json.dumps({"mode": "online"}), "3"])
def test_a_damaged_decision_is_none(content: str, elsewhere: Path) -> None:
    (elsewhere / mode.DECISION_FILE).write_text(content)
    assert read_decision(elsewhere) is None
    assert mode_of_trial({"wandb": {"mode": "online"}}, elsewhere) == "online"


def test_a_study_that_asks_no_server_decides_at_once(elsewhere: Path) -> None:
    study = StudyTracking(AUTO, elsewhere)
    assert study.settle() is None
    assert study.for_trials["wandb"]["mode"] == "offline"
    assert (read_decision(elsewhere) or ())[1] == AUTO["wandb"]
    off = StudyTracking({"wandb": None}, elsewhere)
    (elsewhere / mode.DECISION_FILE).unlink()
    assert off.settle() is None
    assert not (elsewhere / mode.DECISION_FILE).exists()
    assert off.for_trials == {"wandb": None, "names": {}}
    assert off.closing() == []
