"""Whose labels are known of a graph: the part of the section `data` that all graphs share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, model_validator

from akdtune.errors import AkdtuneError
from akdtune.registry import ComponentSettings, lookup, names
from akdtune.settings.data import RowDataSettings

Share = Annotated[float, Field(gt=0, lt=1)]


def _of_nodes(network: str) -> str:
    """The name of a network of nodes.

    Raises:
        ValueError: for any other name.
    """
    try:
        takes = lookup("networks", network).takes
    except AkdtuneError as error:
        raise ValueError(str(error)) from None
    if takes != "nodes":
        known = [name for name in names("networks") if lookup("networks", name).takes == "nodes"]
        raise ValueError(f"the network '{network}' takes {takes}, not nodes (networks of nodes: {', '.join(known)})")
    return network


class AnnotateSettings(ComponentSettings):
    """Which nodes of the training pool get a label from somebody who may err, and from whom."""

    share: Share = Field(description="nodes that are annotated, as a share of all nodes of the graph")
    by: Literal["disagreement", "entropy", "random"] = Field(
        "disagreement",
        description="which come first: where the committee's members differ most, where they are least sure, or any",
    )
    committee: list[Annotated[str, AfterValidator(_of_nodes)]] = Field(
        ["gcn", "appnp", "mlp_nodes"],
        min_length=1,
        description="networks that are trained on the labelled nodes, once, to choose; no teachers",
    )
    error: float = Field(0.0, ge=0, le=1, description="share of the annotations that is drawn anew from all classes")
    seed: int = Field(0, description="of what is drawn")
    annotator: str | None = Field(
        None,
        description="CSV file with the columns node and label, e.g. a language model's answers; null: the right label",
        examples=["~/answers.csv"],
    )

    @model_validator(mode="after")
    def _fits(self) -> AnnotateSettings:
        if self.by == "disagreement" and len(self.committee) < 2:
            raise ValueError("a committee of one does not disagree; name two, or set by to entropy or random")
        if self.by == "random" and self.committee != type(self).model_fields["committee"].default:
            raise ValueError("by is random, for which nobody asks a committee; leave one of them out")
        if self.annotator is not None and self.error:
            raise ValueError("error is of made-up annotations, and annotator names a file of real ones; leave one out")
        return self


class GraphSettings(RowDataSettings):
    """A graph, of some of whose nodes the labels are known."""

    validation: NonNegativeInt | Share = Field(
        description="nodes of the pool that trials are judged by: how many, or which share of the pool",
        examples=[100, 0.1],
    )
    split_seed: int = Field(0, description="of pool, validation and labelled nodes")
    pool: PositiveInt | Share = Field(
        0.7, description="nodes that training may ask about: how many, or which share; the others are the test set"
    )
    labels_per_class: PositiveInt = Field(20, description="nodes of the pool whose right label is known, in each class")
    annotate: AnnotateSettings | None = Field(None, description="further labels in the pool, which may be wrong")

    @property
    def pool_nodes(self) -> int:
        """How many nodes the pool has, as far as that is known without reading anything."""
        return 0
