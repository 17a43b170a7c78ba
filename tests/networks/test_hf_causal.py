"""Causal models of transformers, out of a folder: two layers of GPT-2 that are made here; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from akdtune import networks
from akdtune.errors import AkdtuneError
from akdtune.registry import typed
from akdtune.signals import Tokens, TokenSpec

transformers = pytest.importorskip("transformers")
SPEC = TokenSpec(vocabulary=50, length=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    configuration = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=64, n_positions=32)
    transformers.GPT2LMHeadModel(configuration).save_pretrained(where)
    return where


def built(folder: Path, spec: TokenSpec = SPEC, seed: int = 0, **settings: Any) -> networks.Network:
    return networks.build({"name": "hf_causal", "folder": str(folder), **settings}, spec, seed).eval()


def windows(count: int = 3) -> Tokens:
    generator = torch.Generator().manual_seed(0)
    ids_BL = torch.randint(50, (count, 12), generator=generator)
    return Tokens(ids_BL, torch.rand(count, 12, generator=generator) < 0.5)


@torch.no_grad()
def test_logits_are_the_models_for_the_tokens_that_the_data_know(folder: Path) -> None:
    network, batch = built(folder), windows()
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    expected = whole(input_ids=batch.ids_BL).logits[batch.rows_BL][:, :50]
    said = network(batch)
    torch.testing.assert_close(said.logits_BK, expected)
    assert torch.equal(said.logits_BK, functional.linear(said.pooled_BC, *network.classifier()))
    assert (said.pooled_BC.shape[1], said.logits_BK.shape[1]) == (network.pooled_dim, 50) == (16, 50)


def test_weights_are_the_folders_or_drawn_from_the_seed(folder: Path) -> None:
    one, other = (built(folder, seed=seed).state_dict() for seed in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    drawn = [built(folder, seed=seed, weights=None).state_dict() for seed in (0, 0, 1)]
    name = "body.h.0.mlp.c_fc.weight"
    assert torch.equal(drawn[0][name], drawn[1][name])
    assert not torch.equal(drawn[0][name], drawn[2][name])


def test_the_hash_of_a_cell_follows_what_is_in_the_folder(folder: Path, tmp_path: Path) -> None:
    from akdtune.networks.hf_causal import CausalModel

    def brought(where: Path, **settings: Any) -> str:
        return CausalModel.brought(typed("networks", {"name": "hf_causal", "folder": str(where), **settings}))

    first = brought(folder)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert brought(tmp_path) == first
    assert brought(folder, weights=None) == ""
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + "\n")
    assert brought(tmp_path) != first


def test_it_trains(folder: Path) -> None:
    network, batch = built(folder).train(), windows()
    loss = functional.cross_entropy(network(batch).logits_BK, batch.ids_BL[batch.rows_BL])
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert networks.draws(network, SPEC), "GPT-2's configuration has dropout"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TokenSpec(70, 12), "knows 64 tokens, the data have 70"),
        (TokenSpec(50, 40), r"takes 32 tokens, windows have 40 \(data\.window\)"),
    ],
)
def test_models_that_are_too_small(folder: Path, spec: TokenSpec, message: str) -> None:
    with pytest.raises(AkdtuneError, match=message):
        built(folder, spec)


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(AkdtuneError, match=r"holds no config\.json"):
        built(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such"}))
    with pytest.raises(AkdtuneError, match=r"cannot be read \("):
        built(tmp_path)


def test_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    auto = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto}))
    (tmp_path / "own.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(AkdtuneError, match=r"cannot be read \("):
        built(tmp_path)


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r'hf_causal needs transformers.*pip install "akdtune\[language\]"'):
        typed("networks", {"name": "hf_causal", "folder": "anywhere"})
