"""One Ray for all tests that run studies in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.ray.studies import PLUGINS


@pytest.fixture(scope="session")
def ray_up() -> Iterator[None]:
    from akdtune.running.ray_start import keep_ray, start_ray

    sys.path.insert(0, str(PLUGINS))  # before Ray starts: its workers take the driver's path
    start_ray(None, 5.0)
    with keep_ray():
        yield
