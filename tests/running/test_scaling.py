"""The bookkeeping of a study grows with its trials, not their square: counted here, timed in benchmarks/scaling.py."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from akdtune import atomic
from akdtune.cli.terminal import layout
from akdtune.errors import AkdtuneWarning, StudyError
from akdtune.records import plan_file, study_directory, tables
from akdtune.records.epoch_rows import ChunkLimits, Epochs
from akdtune.records.files import EPOCHS, SMALL_ROWS, read_table, write_rows
from akdtune.records.ledger import reading
from akdtune.records.ledger.events import RungDecided, StudyFinished, TrialEnded, TrialStarted
from akdtune.records.ledger.lines import parse
from akdtune.records.ledger.reading import read_events
from akdtune.records.ledger.state import cut_torn_line
from akdtune.records.plan_file import read_plan, read_plan_file
from akdtune.records.study_directory import COMPACT_TRIALS, StudyDirectory
from tests.study_fixture import StudyBuilder


def plan_row(number: int) -> dict[str, Any]:
    return {
        "trial_id": f"t{number:05d}", "cell_id": f"c{number:05d}", "seed": 0, "role": "search", "arm": "none/kd",
        "bracket": "none/kd", "proposal": number, "params": {"method.kd.weight": 0.5 + number},
        "settings": {"method": [{"name": "kd", "weight": 0.5 + number}]}, "raw": {"method.kd.weight": 0.5 + number},
        "cell": None,
    }  # fmt: skip


def epoch_rows(trial_id: str, count: int, **more: float) -> list[dict[str, Any]]:
    accuracy = {"val_accuracy": 50.0, "score": 50.0, "wall_time_s": 1.0, "loss.ce": 1.0}
    return [{"trial_id": trial_id, "attempt": 1, "epoch": e, **accuracy, **more} for e in range(1, count + 1)]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[StudyDirectory]:
    with StudyDirectory(tmp_path / "study").opened() as opened:
        opened.write_lock({"settings": {}, "data": {}, "teacher": {}})
        yield opened


def reopened(root: Path) -> StudyDirectory:
    fresh = StudyDirectory(root)
    fresh.load()
    return fresh


class TestPlan:
    def test_rows_written_grow_with_the_proposals(
        self, directory: StudyDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each proposal alone, as TPE makes them: five times the final plan or less is written, not half its square."""
        written: list[int] = []
        monkeypatch.setattr(study_directory, "write_plan_table", lambda root, table: written.append(table.num_rows))
        for number in range(500):
            directory.add_to_plan([plan_row(number)])
        in_ledger = sum(event.kind == "planned" for event in read_events(directory.root))
        assert in_ledger == 500, "each is on disk once it is decided"
        assert sum(written) < 6 * 500
        assert max(after - before for before, after in zip(written, written[1:], strict=False)) <= 500 / 4 + 1

    def test_what_only_the_ledger_knows_is_in_the_plan(self, directory: StudyDirectory) -> None:
        rows = [plan_row(number) for number in range(21)]
        directory.add_to_plan(rows[:20])
        directory.add_to_plan(rows[20:])
        assert len(read_plan_file(directory.root)) == 20
        expected = [{**row, "number": number} for number, row in enumerate(rows)]
        assert read_plan(directory.root) == expected
        again = reopened(directory.root)
        assert [record.plan for record in again.records.values()] == expected
        again.add_to_plan([plan_row(21)])
        assert reopened(directory.root).records["t00021"].plan["number"] == 21
        assert tables.read_trials(directory.root)["trial_id"].to_pylist() == [f"t{n:05d}" for n in range(22)]

    def test_a_proposal_that_was_torn_off_is_not_planned(self, directory: StudyDirectory) -> None:
        directory.add_to_plan([plan_row(number) for number in range(20)])
        directory.add_to_plan([plan_row(20)])
        directory.ledger_path.write_bytes(directory.ledger_path.read_bytes()[:-5])
        again = reopened(directory.root)
        assert "t00020" not in again.records
        again.add_to_plan([plan_row(20)])
        assert read_plan(directory.root)[-1]["trial_id"] == "t00020"

    def test_at_the_end_the_file_is_complete(self, directory: StudyDirectory) -> None:
        for number in range(21):
            directory.add_to_plan([plan_row(number)])
        assert len(read_plan_file(directory.root)) < 21
        directory.append(StudyFinished(interrupted=False))
        assert read_plan_file(directory.root) == read_plan(directory.root)
        assert len(reopened(directory.root).records) == 21

    def test_a_trial_is_planned_once(self, directory: StudyDirectory) -> None:
        directory.add_to_plan([plan_row(0)])
        with pytest.raises(AssertionError, match="t00000"):
            directory.add_to_plan([plan_row(0)])
        with pytest.raises(AssertionError, match="t00001"):
            directory.add_to_plan([plan_row(1), plan_row(1)])

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_a_full_disk_plans_nothing(self, directory: StudyDirectory) -> None:
        directory.add_to_plan([plan_row(number) for number in range(20)])
        directory.ledger_path = Path("/dev/full")
        with pytest.raises(StudyError, match="No space left on device"):
            directory.add_to_plan([plan_row(20)])
        assert directory.broken is not None
        assert "t00020" not in directory.records


def done(trial_id: str, epoch: int) -> TrialEnded:
    return TrialEnded(kind="done", trial_id=trial_id, epoch=epoch)


class TestLedger:
    def test_readers_decode_no_epochs(self, directory: StudyDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
        directory.add_to_plan([plan_row(0)])
        directory.append(TrialStarted(trial_id="t00000", attempt=1))
        for epoch in range(1, 51):
            directory.epoch("t00000", epoch, 50.0, 50.0)
        directory.finish(done("t00000", 50))
        parsed: list[bytes] = []
        for module in (plan_file, tables):
            monkeypatch.setattr(module, "parse", lambda line: parsed.append(line) or parse(line))
        assert tables.read_trials(directory.root)["status"].to_pylist() == ["done"]
        assert len(parsed) == 2

    @pytest.mark.parametrize("line", ['{"event":"done","trial_id":"t"}', '{"trial_id": "t", "event": "done"}'])
    def test_a_line_that_another_hand_wrote_is_found(self, tmp_path: Path, line: str) -> None:
        (tmp_path / "ledger.jsonl").write_text(f'{line}\n{{"time": 1, "event": "epoch"}}\n')
        assert [event.kind for event in reading.events(tmp_path, {"done"})] == ["done"]

    def test_epochs_of_one_report_are_written_at_once(
        self, directory: StudyDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory.add_to_plan([plan_row(0)])
        directory.epoch("t00000", 1, 10.0, 10.0)
        appended: list[bytes] = []
        monkeypatch.setattr(atomic, "append", lambda path, content, *, durable: appended.append(content))
        rows = [(1, 10.0, 10.0), (2, 20.0, None), (3, float("nan"), 30.0)]
        assert directory.epochs("t00000", rows) == 2, "the first stands there"
        assert [len(content.splitlines()) for content in appended] == [2]
        assert directory.epochs("t00000", rows) == 0 and len(appended) == 1
        assert directory.records["t00000"].epochs == {1: (10.0, 10.0), 2: (20.0, None), 3: (None, 30.0)}

    def test_what_is_held_of_an_ended_trial_does_not_grow_with_its_epochs(self, directory: StudyDirectory) -> None:
        directory.add_to_plan([plan_row(0)])
        for epoch in range(1, 41):
            directory.epoch("t00000", epoch, float(epoch), float(epoch))
            if epoch in (10, 20):
                directory.append(
                    RungDecided(
                        trial_id="t00000", epoch=epoch, rung=epoch, value=1.0, cutoff=None, decision="CONTINUE",
                        bracket="none/kd",
                    )
                )  # fmt: skip
        assert len(directory.records["t00000"].epochs) == 40
        directory.finish(done("t00000", 40))
        for held in (directory, reopened(directory.root)):
            record = held.records["t00000"]
            assert record.epochs == {epoch: (float(epoch), float(epoch)) for epoch in (10, 20, 40)}
            assert (record.last_epoch, record.value) == (40, 40.0)
            assert [event.kind for event in held.events] == ["rung", "rung", "done"]
        assert not directory.epoch("t00000", 7, 1.0, 1.0), "the ledger has it"


class TestEpochs:
    def study(self, root: Path, trials: int, epochs: int = 3) -> Path:
        builder = StudyBuilder(root)
        for number in range(trials):
            builder.add("angular/kd", 60.0 + number, 0.2, epochs=epochs)
        return builder.write()

    def test_a_running_study_is_compacted_now_and_then(
        self, directory: StudyDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At any time a reader opens few files; all compactions together open each trial's file once."""
        opened: list[Path] = []
        read = read_table
        monkeypatch.setattr(
            "akdtune.records.epoch_rows.read_table", lambda path: opened.append(Path(path)) or read(path)
        )
        count = 3 * COMPACT_TRIALS
        directory.add_to_plan([plan_row(number) for number in range(count)])
        for number in range(count):
            trial_id = f"t{number:05d}"
            directory.trial(trial_id).write_rows(epoch_rows(trial_id, 2))
            directory.finish(done(trial_id, 2))
        of_trials = [path for path in opened if path.parent.parent.name == "trials"]
        assert len(of_trials) == len(set(of_trials)) == count
        opened.clear()
        assert tables.read_epochs(directory.root).num_rows == 2 * count
        assert len(opened) < COMPACT_TRIALS

    def test_a_compaction_that_fails_costs_nothing(self, directory: StudyDirectory) -> None:
        directory.add_to_plan([plan_row(number) for number in range(COMPACT_TRIALS)])
        damaged = directory.trial("t00000").epochs
        damaged.parent.mkdir(parents=True)
        damaged.write_bytes(b"PAR1")
        for number in range(COMPACT_TRIALS):
            assert directory.finish(done(f"t{number:05d}", 1))
        assert directory.broken is None
        with pytest.warns(AkdtuneWarning, match=r"t00000/epochs\.parquet: cannot be read"):
            assert tables.read_epochs(directory.root).num_rows == 0

    def test_chunks_are_bounded_and_hold_whole_trials(self, tmp_path: Path) -> None:
        root = self.study(tmp_path, 23)
        whole = tables.read_epochs(root).sort_by([("trial_id", "ascending"), ("epoch", "ascending")])
        built = tables.build_trials(root)
        few = ChunkLimits(trials=3, rows=12)
        for _ in range(2):  # from the trials' files, then from the compacted one
            chunks = list(Epochs(root, few).chunks())
            assert len(chunks) >= 4
            assert max(chunk.num_rows for chunk in chunks) <= 12 + 3 * 3
            ids = [set(chunk["trial_id"].to_pylist()) for chunk in chunks]
            assert sum(map(len, ids)) == len(set().union(*ids)) == 23
            assert tables.build_trials(root, few).equals(built)
            tables.compact(root, few)
            assert pq.ParquetFile(root / EPOCHS).num_row_groups >= 4
            order = [("trial_id", "ascending"), ("epoch", "ascending")]
            assert tables.read_epochs(root, few).sort_by(order).equals(whole)

    def test_columns_of_several_kinds_become_one(self, tmp_path: Path) -> None:
        root = self.study(tmp_path, 0)
        for number, value in enumerate([1, 2.5, None]):
            rows = [{"trial_id": f"t{number}", "attempt": 1, "epoch": 1, "extra": value, "note": value or "none"}]
            write_rows(root / "trials" / f"t{number}" / EPOCHS, rows)
        table = tables.read_epochs(root)
        assert table["extra"].to_pylist() == [1.0, 2.5, None]
        assert table["note"].to_pylist() == ["1", "2.5", "none"]

    def test_few_rows_are_packed_plainly_and_many_tightly(self, tmp_path: Path) -> None:
        for count in (10, SMALL_ROWS):
            write_rows(tmp_path / f"{count}.parquet", epoch_rows("t", count))
        few, many = (
            pq.ParquetFile(tmp_path / f"{count}.parquet").metadata.row_group(0).column(5) for count in (10, SMALL_ROWS)
        )
        assert (few.statistics, few.compression) == (None, "SNAPPY")
        assert (many.statistics is not None, many.compression) == (True, "ZSTD")


class TestBenchmark:
    @pytest.fixture
    def benchmark(self, repository: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
        """The benchmark as a module; its driver does without Ray's import."""
        spec = importlib.util.spec_from_file_location("scaling", repository / "benchmarks" / "scaling.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "scaling", module)
        if "akdtune.running.driver" not in sys.modules:
            monkeypatch.setitem(sys.modules, "akdtune.running.driver", types.ModuleType("akdtune.running.driver"))
        spec.loader.exec_module(module)
        return module

    def test_its_study_is_one(self, benchmark: types.ModuleType, tmp_path: Path) -> None:
        tmp_path = tmp_path / "study"
        tmp_path.mkdir()
        times = benchmark.drive(tmp_path, 70, 12)
        assert times["plan_s"] > 0 and times["closing_s"] > 0
        assert (tmp_path / benchmark.BEFORE).exists(), "compacted once on the way"
        rows = tables.read_trials(tmp_path).to_pylist()
        assert {row["status"] for row in rows} == {"done", "pruned"}
        assert {row["epochs"] for row in rows if row["status"] == "pruned"} == {benchmark.RUNG}
        assert {row["role"] for row in rows} == {"search", "probe"}
        benchmark.resume(tmp_path, 70, 12)

    def test_what_misses_a_target_is_said(self, benchmark: types.ModuleType) -> None:
        base = {"epochs": 40, "wall_s": 1.0, "peak_mib": 900.0}
        rows = [
            {
                **base,
                "part": "driver",
                "trials": 10,
                "cpu_s": 9.0,
                "plan_s": 1.0,
                "workers_s": 5.0,
                "private_mib": 500.0,
            },
            {**base, "part": "driver", "trials": 100, "cpu_s": 99.0, "plan_s": 10.0, "private_mib": 601.0},
            {**base, "part": "show", "trials": 10, "cpu_s": 1.5},
            {**base, "part": "show", "trials": 100, "cpu_s": 9.0, "wall_s": 5.1},
        ]
        grown = benchmark.growth(rows, {"driver": 0.0, "show": 1.0})
        assert grown == [
            {"part": "driver", "trials": 100, "growth": 1.0},
            {"part": "show", "trials": 100, "growth": 1.6},
        ]
        assert benchmark.missed(rows, grown) == [
            "driver, 10 trials: 100.0 ms a trial (under 3)",
            "driver, 100 trials: 601 MiB (under 600)",
            "driver, 100 trials: 100.0 ms a trial (under 3)",
            "show, 100 trials: 5.1 s (under 3 s)",
            "show: a trial costs 1.6 times as much with 100 (at most 1.3)",
        ]

    def test_made_up_trials_are_the_same_in_every_process(self, benchmark: types.ModuleType) -> None:
        first, again = (json.dumps(list(benchmark.trials(5, 12))) for _ in range(2))
        assert first == again


def test_a_plain_table_is_as_wide_as_its_content() -> None:
    rows = [["x", "1", "a=1 b=2"], ["yyy", "22", ""]]
    assert layout.plain(["trial", "n", "settings"], rows, {1}) == (
        "trial   n  settings\n"
        "x       1  a=1 b=2\n"
        "yyy    22"
    )  # fmt: skip
    assert layout.plain(["trial", "n"], []) == "trial  n"


@pytest.mark.parametrize("block", [1, 3, 100])
@pytest.mark.parametrize(
    ("held", "left"),
    [(b"", b""), (b"a\n", b"a\n"), (b"a\nbcd", b"a\n"), (b"abcdef", b""), (b"a\n\nbb\ncccc", b"a\n\nbb\n")],
)
def test_a_torn_line_is_looked_for_from_the_end(tmp_path: Path, held: bytes, left: bytes, block: int) -> None:
    file = tmp_path / "ledger.jsonl"
    file.write_bytes(held)
    cut_torn_line(file, block)
    assert file.read_bytes() == left
