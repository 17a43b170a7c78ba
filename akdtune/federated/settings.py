"""Settings of the task `federated`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic import field_validator as validates

from akdtune.registry import ComponentSettings
from akdtune.settings.trial import network_settings


class ByArchitecture(ComponentSettings):
    """The clients of an architecture get the mean of their weights, each by its images (FedAvg within it)."""

    name: Literal["by_architecture"] = "by_architecture"


class Average(ComponentSettings):
    """Layers of all architectures meet in the server's network, where they overlap, and go back from there."""

    name: Literal["average"] = "average"


class LayerWise(ComponentSettings):
    """Single layers are uploaded, drawn together on pseudo-inputs, and one of them comes back (FedFree)."""

    name: Literal["layers"] = "layers"
    upload: PositiveInt = Field(2, description="layers that a client sends: those that changed most in the round")
    gain: Literal["kge", "random", "none"] = Field(
        "kge",
        description="which uploaded layer comes back: that of the largest gain of entropy, if it is positive; one at"
        " random; none: all of them, whatever their gain",
    )
    bins: int = Field(256, ge=2, le=65_536, description="of the histogram whose entropy is taken")
    bin_range: Literal["own", "common"] = Field(
        "own",
        description="of the bins: from the smallest to the largest weight of each layer, so that scale does not count,"
        " or of both together",
    )
    fill: Literal["keep_local", "zeros"] = Field(
        "keep_local", description="entries of a client's layer for which the server's is too small"
    )
    steps: PositiveInt = Field(1, le=10_000, description="gradient steps of a layer of the server in a round")
    lr: PositiveFloat = Field(0.01, description="learning rate of these steps")
    pseudo_inputs: PositiveInt = Field(64, description="Gaussian inputs of a step")


class Nothing(ComponentSettings):
    """Clients keep to themselves."""

    name: Literal["none"] = "none"


def _or_a_name(schema: dict[str, Any]) -> None:
    """Lets a mapping's name stand for it in a schema."""
    mapping = {key: schema.pop(key) for key in ("oneOf", "discriminator") if key in schema}
    schema["anyOf"] = [{"enum": sorted(mapping["discriminator"]["mapping"])}, mapping]


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Aggregate = Annotated[ByArchitecture | Average | LayerWise | Nothing, Discriminator("name")]


class FederatedSettings(ComponentSettings):
    """How images are dealt out, what happens in a round (an epoch of a trial), and what is judged.

    A trial's learning rate, batch size and optimiser are the clients', and the server's as well.
    """

    clients: int = Field(6, ge=2, le=10_000, description="how many; they take the networks in turn")
    networks: list[str | dict[str, Any]] = Field(
        ["mlp"], min_length=1, description="architectures of the clients, each a name or {name: ..., settings}"
    )
    dirichlet: PositiveFloat | None = Field(
        None, description="each class is dealt out by shares from a Dirichlet distribution with this concentration"
    )
    classes_per_client: PositiveInt | None = Field(
        None, description="each client has images of so many classes; null, like dirichlet: all alike, at random"
    )
    minimum: int = Field(2, ge=2, description="images that every client has at least; a Dirichlet draw is repeated")
    split_seed: int | None = Field(
        None, description="of dealing out; null: the trial's order seed, so that trials of one seed share it"
    )
    proxy: NonNegativeInt = Field(
        0, description="training images that no client has, on which the server distils; their labels are not read"
    )
    local_epochs: PositiveInt = Field(1, le=10_000, description="epochs of a client in a round")
    server_epochs: PositiveInt = Field(
        1, le=10_000, description="epochs of the server over its proxy images in a round"
    )
    server_lr: PositiveFloat | None = Field(None, description="null: training.lr; falls as that one does")
    aggregate: Annotated[Aggregate, BeforeValidator(_named)] = Field(
        ByArchitecture(),
        description="by_architecture, average, layers (or a mapping with its settings) or none",
        json_schema_extra=_or_a_name,
    )
    judged: Literal["server", "clients"] = Field(
        "server", description="server: on all images; clients: each on images of the classes that it has, their mean"
    )

    @validates("networks")
    @classmethod
    def _are_networks(cls, networks: list[str | dict[str, Any]]) -> list[str | dict[str, Any]]:
        filled, wrong = [], []
        for index, network in enumerate(networks):
            settings, issues = network_settings(network, (str(index),))
            filled.append(settings)
            wrong += [f"[{'.'.join(map(str, path))}] {message}" for path, message in issues]
        if wrong:
            raise ValueError("; ".join(wrong))
        return filled

    @model_validator(mode="after")
    def _are_dealt_out_one_way(self) -> FederatedSettings:
        if self.dirichlet is not None and self.classes_per_client is not None:
            raise ValueError(
                f"dirichlet ({self.dirichlet:g}) and classes_per_client ({self.classes_per_client}) both say how "
                "images are dealt out: give one of them, and null for the other"
            )
        return self

    @property
    def alike(self) -> tuple[int, ...]:
        """The architecture of each client, as a number."""
        kinds = [network_key(network) for network in self.networks]
        return tuple(kinds.index(kinds[client % len(kinds)]) for client in range(self.clients))

    def network(self, client: int) -> str | dict[str, Any]:
        """The architecture of a client, as set."""
        return self.networks[client % len(self.networks)]


def network_key(network: str | Mapping[str, Any]) -> str:
    """Equal for networks of one architecture."""
    return json.dumps({"name": network} if isinstance(network, str) else network, sort_keys=True)
