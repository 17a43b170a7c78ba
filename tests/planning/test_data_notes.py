"""What is odd about a data set is said by the plan and where a run starts; what its classes are stands in the lock."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from akdtune.data.dataset import DataSet
from akdtune.planning.identity import Identity
from akdtune.planning.plan import Plan
from akdtune.planning.prepared import Prepared
from akdtune.planning.report import plan_report
from akdtune.running import driver
from akdtune.running.lock import lock_content, refuse_changes
from akdtune.study import spec
from akdtune.study.spec import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Parquet files with names as labels and a turned image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for role, count in (("train", 6), ("test", 2)):
        images = []
        for row in range(count):
            buffer = io.BytesIO()
            picture = Image.new("RGB", (8, 8), (40 * row, 0, 0))
            picture.save(buffer, "JPEG", **({"exif": exif} if row == 1 else {}))
            images.append(buffer.getvalue())
        labels = [("cat", "ape")[row % 2] for row in range(count)]
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"{role}.parquet")
    file = tmp_path / "named.yaml"
    file.write_text(
        f"data: {{name: parquet, root: {tmp_path}, train: train.parquet, test: test.parquet, validation: 0.34}}\n"
        "teacher: none\nstudent: {network: {name: cnn, widths: [2, 4]}}\nmethod: student_only\n"
        "training: {epochs: 1, batch_size: 2}\nsearch: {trials: 1, algorithm: random}\n"
    )
    return spec.load(file)


NOTE = (
    "warning: 2 of 8 images have an EXIF orientation, which is left aside as torchvision's loader does: they stay as "
    "stored (e.g. train.parquet: row 1)"
)
"""Without the folder: a copy of the files, whose pixels are in the cache already, lies elsewhere."""


def test_the_plan_says_what_is_odd_and_names_the_classes(study: Study) -> None:
    lines = plan_report(Plan.of(study, timed=False))
    assert NOTE in lines
    at = lines.index("data parquet: 4 training, 2 validation, 2 test images")
    assert lines[at + 1] == "2 classes, 0 to 1: ape, cat"


def test_a_run_says_it_before_anything_trains(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reached(Exception):
        pass

    def reached(*_: object) -> None:
        raise Reached

    monkeypatch.setattr(driver.Prepared, "find_teacher", reached)
    console = Console(file=io.StringIO(), markup=False, width=60)
    with pytest.raises(Reached):
        driver.run(study, tmp_path / "run", console=console)
    assert NOTE in console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_lock_names_the_classes_and_needs_no_names(study: Study) -> None:
    prepared = Prepared.load(study)
    teacher = prepared.find_teacher()
    assert teacher is not None
    lock = lock_content(study, Identity(study, prepared, teacher))
    assert lock["data"]["classes"] == ["ape", "cat"]
    del lock["data"]["classes"]  # of an earlier version
    assert refuse_changes(study, lock, Path()) == []


def test_many_classes_are_named_in_part(study: Study) -> None:
    dataset: DataSet = Prepared.load(study).dataset
    dataset.classes = tuple(range(1, 1001))
    assert dataset.classes_in_words == "1,000 classes, 0 to 999: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ..., 1000"
    dataset.classes = None
    assert dataset.classes_in_words is None
