"""Where the recorded data lie beside the checkout: every case of them is in these tests, unchanged."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from tests.checkout import BESIDE

HERE = Path(__file__).parent
RECORDED = BESIDE / "golden"
pytestmark = pytest.mark.skipif(not RECORDED.exists(), reason="the recorded data are not beside this checkout")


def test_every_recorded_loss() -> None:
    recorded = np.load(RECORDED / "losses.npz")
    used = {**np.load(HERE / "distillation.npz"), **np.load(HERE / "feature_losses.npz")}
    assert used.keys() == set(recorded.files)
    for key, values in used.items():
        np.testing.assert_array_equal(values, recorded[key], err_msg=key)


def test_every_recorded_network() -> None:
    recorded = json.loads((RECORDED / "models.json").read_text())
    with gzip.open(HERE / "networks.json.gz") as file:
        assert json.load(file) == recorded
    outputs, used = np.load(RECORDED / "models.npz"), np.load(HERE / "networks.npz")
    assert set(used.files) == set(outputs.files)
    for key in outputs.files:
        np.testing.assert_array_equal(used[key], outputs[key], err_msg=key)
