"""Files that are refused with a command that saves their weights: the command is run as printed, and its file loads."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from akdtune import cli, networks
from akdtune.errors import CheckpointError
from akdtune.signals import InputSpec
from akdtune.teacher.checkpoints import load_checkpoint, weights_hash
from akdtune.teacher.extraction import extract_weights

CPU = torch.device("cpu")
INPUTS = InputSpec(1, 8, 10)
NETWORK = {"name": "cnn", "widths": [4, 6]}


class Options:
    """A class of the training's own."""

    def __init__(self) -> None:
        self.lr = 0.1


class Plain(nn.Module):
    """A network as somebody pickled it whole."""

    def __init__(self) -> None:
        super().__init__()
        for name, child in networks.build(NETWORK, INPUTS, 3).named_children():
            self.add_module(name, child)
        self.register_buffer("scratch", torch.ones(3), persistent=False)
        self.activation = nn.functional.relu
        self.options = Options()

    def forward(self, images: Tensor) -> Tensor:
        return images


class Executed:
    """Pickles to a call: a file that tries to run code."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


def weights() -> dict[str, Tensor]:
    return dict(networks.build(NETWORK, INPUTS, 3).state_dict())


def write_index(file: Path) -> None:
    parts: list[dict[str, Tensor]] = [{}, {}]
    for number, (name, tensor) in enumerate(weights().items()):
        parts[number % 2][name] = tensor.contiguous()
    for number, part in enumerate(parts):
        save_file(part, file.with_name(f"part-{number}.safetensors"))
    where = {name: f"part-{number}.safetensors" for number, part in enumerate(parts) for name in part}
    file.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))


def write_zip(file: Path) -> None:
    torch.save(weights(), file.with_name("inner.pth"))
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(file.with_name("inner.pth"), "folder/inner.pth")


def write_tar(file: Path) -> None:
    torch.save(weights(), file.with_name("inner.pth"))
    with tarfile.open(file, "w") as archive:
        archive.add(file.with_name("inner.pth"), "inner.pth")


def write_gzip(file: Path) -> None:
    torch.save({"model": weights(), "args": argparse.Namespace()}, file.with_name("inner.pth"))
    file.write_bytes(gzip.compress(file.with_name("inner.pth").read_bytes()))


def write_program(file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer torch would rather have programs of another kind
        body = nn.Module()
        for name, tensor in weights().items():
            *place, last = name.split(".")
            inner = body
            for part in place:
                if part not in dict(inner.named_children()):
                    inner.add_module(part, nn.Module())
                inner = inner.get_submodule(part)
            inner.register_buffer(last, tensor)
        torch.jit.trace_module(body, {}).save(str(file))


def saved(held: Callable[[], Any]) -> Callable[[Path], None]:
    return lambda file: torch.save(held(), file)


NAMESPACE = argparse.Namespace(lr=0.1, model="cnn")
FILES: dict[str, Callable[[Path], None]] = {
    "timm's own.pth.tar": saved(
        lambda: {"arch": "cnn", "args": NAMESPACE, "state_dict": weights(), "epoch": 3, "metric": 71.2}
    ),
    "resnet8_last.pth": saved(lambda: {"opt": NAMESPACE, "model": weights(), "accuracy": 72.5}),
    "lightning $x `y`.ckpt": saved(
        lambda: {"state_dict": {f"model.{k}": v for k, v in weights().items()}, "hyper_parameters": Options(),
                 "callbacks": {"x": Path("p"), "y": {Options}}}
    ),
    "whole.pth": saved(Plain),
    "yolo.pt": saved(lambda: {"ema": None, "model": Plain(), "train_args": NAMESPACE}),
    "program.pt": write_program,
    "model.safetensors.index.json": write_index,
    "inner.pth.gz": write_gzip,
    "kaggle.zip": write_zip,
    "old.tar": write_tar,
}  # fmt: skip


def refusal(file: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(file, NETWORK, INPUTS, CPU)
    return str(caught.value)


def printed_command(message: str) -> list[str]:
    found = re.search(r"akdtune teacher weights .*?_weights\.pth'?", message)
    assert found, message
    return shlex.split(found.group(0))


@pytest.mark.filterwarnings("ignore:.*legacy TorchScript.*")
@pytest.mark.parametrize("name", FILES)
def test_the_printed_command_saves_weights_that_load(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    FILES[name](file)
    message = refusal(file)
    assert "\n" not in message
    program, *arguments = printed_command(message)
    assert program == "akdtune"
    assert cli.main(arguments) == 0
    written = Path(arguments[-1])
    assert capsys.readouterr().out.startswith(f"wrote {written}: ")
    assert written.parent == tmp_path
    loaded = load_checkpoint(written, NETWORK, INPUTS, CPU)
    assert weights_hash(loaded) == weights_hash(networks.build(NETWORK, INPUTS, 3))
    assert cli.main(arguments) == 2, "what is there is never written over"
    assert capsys.readouterr().err == f"akdtune: {written}: exists already; choose another file\n"


def test_the_command_works_when_pasted_into_a_shell(tmp_path: Path) -> None:
    file = tmp_path / "timm's $HOME.pth.tar"
    FILES["timm's own.pth.tar"](file)
    command = refusal(file).partition("with: ")[2]
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "akdtune").write_text(
        f"#!{sys.executable}\nimport sys\nfrom akdtune import cli\nsys.exit(cli.main(sys.argv[1:]))\n"
    )
    (folder / "akdtune").chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=True, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = load_checkpoint(tmp_path / "timm's $HOME_weights.pth", NETWORK, INPUTS, CPU)
    assert weights_hash(loaded) == weights_hash(networks.build(NETWORK, INPUTS, 3))


def test_what_differs_in_kind_stays_apart(tmp_path: Path) -> None:
    two = {"state_dict": weights(), "state_dict_ema": weights(), "args": NAMESPACE, "optimizer": {"state": {0: {}}}}
    torch.save(two, tmp_path / "t.pth")
    kept = extract_weights(tmp_path / "t.pth")
    assert list(kept) == ["state_dict", "state_dict_ema"]
    whole = Plain()
    torch.save(whole, tmp_path / "whole.pth")
    assert list(extract_weights(tmp_path / "whole.pth")["model"]) == list(whole.state_dict())


@pytest.mark.parametrize(
    "call", [(os.system, "touch executed"), (eval, "open('executed', 'w')"), (Path.touch, Path("executed"))]
)
def test_nothing_of_a_file_is_run(call: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": weights(), "extra": Executed(*call)}, "t.pth")
    assert "t.pth: " in refusal(Path("t.pth"))
    if call[0] is Path.touch:  # the result of one call is called: more than any checkpoint needs
        with pytest.raises(CheckpointError, match="unrecognized function"):
            extract_weights(Path("t.pth"))
    elif call[0] is os.system:
        assert "it asks for posix.system, as no checkpoint does: do not trust it" in refusal(Path("t.pth"))
        with pytest.raises(CheckpointError, match=r"it asks for posix\.system"):
            extract_weights(Path("t.pth"))
    else:
        assert list(extract_weights(Path("t.pth"))["model"]) == list(weights())
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda file: None, "no such file"),
        (lambda file: file.write_bytes(b"text"), "cannot be read"),
        (lambda file: torch.save({"a": 1}, file), "holds no weights by name"),
        (lambda file: torch.save(torch.ones(2), file), "holds no weights by name"),
        (lambda file: file.mkdir(), "is a folder"),
    ],
)
def test_what_holds_no_weights(make: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    make(tmp_path / "t.pth")
    with pytest.raises(CheckpointError, match=words):
        extract_weights(tmp_path / "t.pth")


def test_an_index_reads_only_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"")
    (tmp_path / "in").mkdir()
    for name in ("../secret.safetensors", "/etc/passwd", "absent.bin"):
        (tmp_path / "in/x.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(CheckpointError, match="which does not lie beside it"):
            extract_weights(tmp_path / "in/x.index.json")
    for content in ("[]", '{"weight_map": 3}', "{"):
        (tmp_path / "in/x.index.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"in/x\.index\.json: "):
            extract_weights(tmp_path / "in/x.index.json")
