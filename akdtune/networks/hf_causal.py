"""Causal language models of the library transformers, out of a local folder."""

# Shapes: B windows, L tokens of a window, C feature width, R rows, K tokens known, W tokens of the model's own table.

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from akdtune.errors import AkdtuneError
from akdtune.networks import Network
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Signals, Takes, Tokens, TokenSpec

EXTRA = 'transformers, which is not installed: pip install "akdtune[language]"'

REBUILT = 1e-3
"""Largest difference of logits from the last layer's product with the last hidden state, as a share of the largest."""


class CausalSettings(ComponentSettings):
    """Which model."""

    folder: str = Field(
        min_length=1,
        description="local folder with config.json and weights, as save_pretrained writes them; nothing is downloaded,"
        " and no code out of it is run",
    )
    weights: Literal["folder"] | None = Field(
        "folder", description="folder: the weights there to begin with; null: the configuration alone, drawn anew"
    )

    @model_validator(mode="after")
    def _can_be_read(self) -> CausalSettings:
        if importlib.util.find_spec("transformers") is None:
            raise ValueError(f"hf_causal needs {EXTRA}")
        return self


@register("hf_causal")
class CausalModel(Network):
    """A model that `AutoModelForCausalLM` reads out of a folder; the pooled feature is its last hidden state.

    Logits of more tokens than the data know (a table that was padded) are left out. With
    `teacher.checkpoint: pretrained` the weights of the folder are the target as they are.

    Differs: weights are computed in float32 whatever they are stored in.
    """

    source = "Wolf et al., Transformers: State-of-the-Art Natural Language Processing, EMNLP 2020 (demos)"
    takes: ClassVar[Takes] = "tokens"
    offers = frozenset()
    Settings = CausalSettings
    no_bias: Tensor

    def __init__(self, settings: CausalSettings, inputs: TokenSpec) -> None:
        """Reads the model.

        Raises:
            AkdtuneError: for a folder that holds none, one that knows too few tokens or too short windows, and one
                whose logits are not its last layer's product with its last hidden state.
        """
        super().__init__(settings, inputs)
        self._vocabulary = inputs.vocabulary
        model = _read(settings)
        body, head = model.base_model, model.get_output_embeddings()
        name = f"network hf_causal: {settings.folder}"
        if not isinstance(head, nn.Linear) or body is model:
            raise AkdtuneError(f"{name}: {type(model).__name__} does not end in one linear layer over tokens")
        if head.out_features < inputs.vocabulary:
            raise AkdtuneError(f"{name}: knows {head.out_features:,} tokens, the data have {inputs.vocabulary:,}")
        longest = getattr(model.config, "max_position_embeddings", None)
        if longest is not None and longest < inputs.length:
            raise AkdtuneError(f"{name}: takes {longest:,} tokens, windows have {inputs.length:,} (data.window)")
        self.body, self.head = body, head
        self.pooled_dim = head.in_features
        self.register_buffer("no_bias", torch.zeros(inputs.vocabulary), persistent=False)
        _check_product(model, self, name)

    @override
    def forward(self, inputs: Tokens, stages: bool = False) -> Signals:
        """Logits [R, K] and last hidden states [R, C] of the rows; there are no maps."""
        hidden_BLC = self.body(input_ids=inputs.ids_BL, use_cache=False).last_hidden_state
        hidden_RC = hidden_BLC[inputs.rows_BL]
        return Signals(functional.linear(hidden_RC, *self.classifier()), hidden_RC)

    @override
    def classifier(self) -> tuple[Tensor, Tensor]:
        bias: Tensor | None = getattr(self.head, "bias", None)
        return self.head.weight[: self._vocabulary], self.no_bias if bias is None else bias[: self._vocabulary]

    @classmethod
    @override
    def brought(cls, settings: ComponentSettings) -> str:
        assert isinstance(settings, CausalSettings)
        return folder_hash(settings.folder) if settings.weights else ""


def folder_hash(folder: str) -> str:
    """Hash of the configuration and the weights in a folder, 16 hex digits; empty where there are none."""
    path = Path(folder).expanduser()
    digest = hashlib.sha256()
    files = sorted(
        file for file in path.glob("*") if file.name == "config.json" or file.suffix in (".safetensors", ".bin")
    )
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16] if files else ""


def _read(settings: CausalSettings) -> Any:
    import transformers  # late: an extra that takes seconds to load

    folder = Path(settings.folder).expanduser()
    if not (folder / "config.json").is_file():
        raise AkdtuneError(f"network hf_causal: {folder} holds no config.json (a folder as save_pretrained writes it)")
    library: Any = transformers  # not typed everywhere
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    auto = library.AutoModelForCausalLM
    try:
        if settings.weights is None:
            configuration = library.AutoConfig.from_pretrained(folder, **local)
            return auto.from_config(configuration, dtype=torch.float32, trust_remote_code=False)
        return auto.from_pretrained(folder, dtype=torch.float32, weights_only=True, **local)
    except Exception as error:  # of another library's code, for files of the user's
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise AkdtuneError(f"network hf_causal: {folder} cannot be read ({reason})") from error


@torch.no_grad()
def _check_product(model: Any, network: CausalModel, name: str) -> None:
    """Refuses a model that does something to its logits besides its last layer."""
    trains = model.training
    model.eval()
    ids_BL = torch.arange(2)[None]
    known = model(input_ids=ids_BL).logits[0, :, : network._vocabulary]
    rebuilt = network(Tokens(ids_BL, torch.ones_like(ids_BL, dtype=torch.bool))).logits_BK
    model.train(trains)
    if (known - rebuilt).abs().max() > REBUILT * known.abs().max():
        raise AkdtuneError(f"{name}: its logits are not its last layer's product with its last hidden state")
