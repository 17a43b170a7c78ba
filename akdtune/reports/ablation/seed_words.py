"""What the seeds of a comparison can show, and how many more it takes, in words.

Both stand on the rule that judges (Holm over the family: alpha over its size is enough whatever the others are) and on
two standard deviations: the one that the seeds show, and its upper 80 % limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log10

from akdtune.reports.ablation.findings import Finding
from akdtune.reports.text import number

MOST = 1000
"""More further seeds than that are not counted out."""


def shown_and_needed(finding: Finding, unit: str) -> list[str]:
    """What these seeds show of a difference that is not resolved, and how many more would resolve the margin."""
    said = []
    if finding.detectable is not None:
        low, high = finding.detectable
        said.append(f"n = {finding.difference.n_pairs} shows only {number(low)} to {number(high)} {unit} or more")
    if finding.more_seeds is not None:
        said.append(needed(*finding.more_seeds, f"{finding.resolve:g} {unit}"))
    return said


def needed(low: int, high: int, what: str) -> str:
    """`needs about 15 to 40 more seeds to resolve 0.3 points with power .8`; both ends rounded up."""
    if high == 0:
        return f"{what} would have shown with power .8"
    fewest, most = rounded_up(low), rounded_up(high)
    if low > MOST:
        count = f"more than {MOST:,}"
    elif low == 0:
        count = f"up to about {most:,}"
    else:
        count = f"about {fewest:,}" if fewest == most else f"about {fewest:,} to {most:,}"
    return f"needs {count} more seed{'' if most == 1 else 's'} to resolve {what} with power .8"


def rounded_up(count: int) -> int:
    """To what an estimate of seeds is worth: ones below 10, fives below 100, two digits beyond."""
    step = 1 if count < 10 else 5 if count < 100 else 10 ** (int(log10(count)) - 1)
    return ceil(count / step) * step


def remarks(findings: Sequence[Finding]) -> list[str]:
    """The smallest differences that the seeds show, over all comparisons, and what ranges mean; [] for none."""
    known = [finding.detectable for finding in findings if finding.detectable is not None]
    if not known:
        return []
    return [
        "smallest difference that these seeds show with power .8 by the rule that judges (alpha over the size of the "
        f"family): {number(min(low for low, _ in known))} to {number(max(high for _, high in known))}",
        "what seeds show or need runs from the standard deviation as these seeds have it to its upper 80 % limit: with "
        "the larger number of seeds four of five studies reach that power, with the smaller fewer than half",
        "seeds that are added after this look are a second look at the same alpha: a study of fresh seeds, their "
        "number declared beforehand, is judged by its own",
    ]
