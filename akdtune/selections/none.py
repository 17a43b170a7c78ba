"""All rows are distilled."""

from __future__ import annotations

from akdtune.registry import register
from akdtune.selections import Selection


@register("none")
class NoSelection(Selection):
    """All rows, as without the section: the same objects reach the methods, and nothing is measured."""

    source = "akdtune"
    selects = False
    columns = ()
