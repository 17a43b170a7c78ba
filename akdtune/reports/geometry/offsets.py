"""Offsets of the views' features from their teacher's, on the plane in which they spread most.

The axes are the first two principal components of all offsets of a trial; the origin is the teacher itself, not the
mean of the offsets, so that a view's distance from it is how far the view has moved.
"""

# Shapes: N images, V views, C feature width.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from akdtune.statistics.resampling import TINY, Floats

ROUNDING = 1e-12
"""Share of the variance below which an axis is rounding."""
SHOWN = 300
"""Images of a view that are drawn, the first ones."""


@dataclass(frozen=True)
class ViewOffset:
    """How one view lies about the teacher.

    Attributes:
        length: mean length of its offset, as a share of the mean length of the teacher's feature.
        constant: share of its squared length that is the same for all images; 1: the view is the teacher, shifted.
        mean_2: mean offset on the plane, as a share of the mean length of the teacher's feature.
        shown_S2: offsets on the plane of the first images, in the same unit.
    """

    length: float
    constant: float
    mean_2: tuple[float, float]
    shown_S2: Floats


@dataclass(frozen=True)
class OffsetPlane:
    """The offsets of all views of one trial.

    Attributes:
        images: over which they were taken.
        shares_2: of the variance of all offsets that each axis holds.
        views: in their order.
        mean_cosine: between the mean offsets of two views, mean over pairs; None for one view.
    """

    images: int
    shares_2: tuple[float, float]
    views: tuple[ViewOffset, ...]
    mean_cosine: float | None


def offset_plane(teacher_NC: Floats, views_VNC: Floats) -> OffsetPlane | None:
    """Projects the offsets of all views; None where no view has moved.

    The sign of an axis is that which makes its largest loading positive.

    Args:
        teacher_NC: the teacher's pooled features.
        views_VNC: those of its views on the same images.
    """
    offsets_VNC = views_VNC.astype(np.float64) - teacher_NC.astype(np.float64)
    unit = float(np.linalg.norm(teacher_NC.astype(np.float64), axis=1).mean())
    squared_V = (offsets_VNC**2).sum(axis=2).mean(axis=1)
    if unit <= 0 or float(squared_V.max(initial=0.0)) <= (TINY * unit) ** 2:
        return None
    axes_2C, shares_2 = _principal(offsets_VNC.reshape(-1, offsets_VNC.shape[2]))
    plane_VN2 = offsets_VNC @ axes_2C.T / unit
    means_VC = offsets_VNC.mean(axis=1)
    views = [
        ViewOffset(
            length=float(np.linalg.norm(offsets_NC, axis=1).mean() / unit),
            constant=float((mean_C**2).sum() / squared) if squared > 0 else 0.0,
            mean_2=(float(plane_N2[:, 0].mean()), float(plane_N2[:, 1].mean())),
            shown_S2=plane_N2[:SHOWN],
        )
        for offsets_NC, mean_C, squared, plane_N2 in zip(offsets_VNC, means_VC, squared_V, plane_VN2, strict=True)
    ]
    return OffsetPlane(offsets_VNC.shape[1], shares_2, tuple(views), _mean_pair_cosine(means_VC))


def _principal(offsets_RC: Floats) -> tuple[Floats, tuple[float, float]]:
    """The first two principal directions [2, C] and their shares of the variance; zeros where there is no second."""
    from scipy.linalg import eigh  # late: commands that only list trials do not wait for it

    centred_RC = offsets_RC - offsets_RC.mean(axis=0)
    scatter_CC = centred_RC.T @ centred_RC  # two directions of it cost a small share of all singular vectors
    width = len(scatter_CC)
    sizes, directions_C2 = eigh(scatter_CC, subset_by_index=[max(0, width - 2), width - 1])
    axes_2C = np.zeros((2, width))
    shares = [0.0, 0.0]
    total = float(np.trace(scatter_CC))
    for place, (size, direction_C) in enumerate(zip(sizes[::-1], directions_C2.T[::-1], strict=True)):
        if total > 0 and size > ROUNDING * total:
            axes_2C[place] = direction_C * np.sign(direction_C[np.abs(direction_C).argmax()])
            shares[place] = float(size / total)
    return axes_2C, (shares[0], shares[1])


def _mean_pair_cosine(vectors_VC: Floats) -> float | None:
    lengths_V = np.linalg.norm(vectors_VC, axis=1)
    if len(vectors_VC) < 2 or float(lengths_V.min()) <= 0:
        return None
    first, second = np.triu_indices(len(vectors_VC), 1)
    near_VC = vectors_VC / lengths_V[:, None]
    return float((near_VC[first] * near_VC[second]).sum(axis=1).mean())
