"""`teacher_cache` in a study, `akdtune cache`, `akdtune teacher fill`, and what `akdtune plan` says of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from akdtune import cli, networks
from akdtune.cli import caches
from akdtune.cli.teachers import fill_rows
from akdtune.data.dataset import load_data
from akdtune.errors import SettingsError, StudyError
from akdtune.planning.identity import Identity
from akdtune.planning.prepared import Prepared
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.running import execution
from akdtune.running.lock import lock_content, refuse_changes
from akdtune.settings.teacher import CacheSettings, cache_location
from akdtune.signals import InputSpec
from akdtune.study import spec
from akdtune.study.ids import ADDED_LATER, cell_hash
from akdtune.study.proposals import Outline
from akdtune.study.written import export_yaml
from akdtune.teacher.cache import Store
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import find_teacher
from akdtune.teacher.items import COMPUTE_BATCH
from akdtune.training.config import TrialConfig
from akdtune.training.request import TrialRequest
from akdtune.training.trial import Trial
from tests.small_trials import roomy_disk

STUDY = """
study: small
data: {name: digits, validation: 600}
teacher: {network: {name: cnn, widths: [4, 8]}, epochs: 1}
student: {network: {name: cnn, widths: [2, 4]}}
method: {choice: [kd, at]}
training: {epochs: 2, batch_size: 32}
search: {algorithm: grid}
"""
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a study, and a cache folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    roomy_disk(monkeypatch)
    (tmp_path / "small.yaml").write_text(STUDY)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


# ------------------------------------------------------------------------------------------------------- settings


def test_a_study_has_the_cache_unless_it_says_null() -> None:
    assert spec.load("small.yaml").teacher_cache == CacheSettings()
    assert spec.load("small.yaml", ["teacher_cache=null"]).teacher_cache is None
    given = spec.load("small.yaml", ["teacher_cache={dtype: fp32, max_mib: 10}"]).teacher_cache
    assert given == CacheSettings(dtype="fp32", max_mib=10)


@pytest.mark.parametrize(
    "override",
    ["teacher_cache=null", "teacher_cache.dtype=fp32", "teacher_cache.max_mib=null", "teacher_cache.compute=bf16",
     "training.precision=bf16"],
)  # fmt: skip
def test_what_is_resolved_loads_again(override: str) -> None:
    study = spec.load("small.yaml", [override])
    resolved = study.resolved()
    Path("again.yaml").write_text(yaml.safe_dump(resolved))
    assert spec.load("again.yaml").teacher_cache == study.teacher_cache
    exported = yaml.safe_load(export_yaml(resolved, study.arms[0].centre().settings))
    assert exported["teacher_cache"] == resolved["teacher_cache"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher_cache.dtype=bf16", "teacher_cache.dtype"),
        ("teacher_cache.max_mib=-1", "teacher_cache.max_mib"),
        ("teacher_cache.size=3", "teacher_cache.size: unknown key 'size'"),
        ("teacher_cache.dtype={choice: [fp16, fp32]}", "cannot be searched over"),
        ("teacher_cache.compute=fp16", "teacher_cache.compute: must be one of 'fp32', 'bf16', got 'fp16'"),
        ("teacher_cache.compute={choice: [fp32, bf16]}", "cannot be searched over"),
        ("teacher_cache.computes=bf16", "unknown key 'computes'; did you mean 'compute'"),
        ("teacher_cache.location=''", "teacher_cache.location"),
    ],
)
def test_wrong_settings_are_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        spec.load("small.yaml", [override])


def test_folders_are_the_drivers_unless_they_begin_with_a_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = spec.load("small.yaml", ["teacher_cache={location: local, seed_from: $SHARED/seed}"])
    cache = study.teacher_cache
    assert cache is not None
    assert cache.location == str(home / "local") and cache.seed_from == "$SHARED/seed"
    monkeypatch.setenv("SHARED", "/somewhere")
    assert cache.seed_folder() == Path("/somewhere/seed") and cache.folder() == home / "local"
    assert CacheSettings().folder() == home / "cache" / "teacher_cache"


def test_without_a_teacher_the_section_is_ignored_with_a_warning() -> None:
    study = spec.load("small.yaml", ["teacher=none", "method=label_smoothing", "teacher_cache={max_mib: 3}"])
    assert study.teacher_cache is None
    assert any("teacher_cache: is ignored" in warning for warning in study.warnings)
    assert not spec.load("small.yaml", ["teacher=none", "method=label_smoothing"]).warnings


def identity(*overrides: str) -> Identity:
    study = spec.load("small.yaml", list(overrides))
    file = TeacherFile("t.pt", "key", "weights", study.teacher.network, 80.0, 81.0, False)
    return Identity(study, Prepared.load(study), file)


def test_the_precision_identifies_a_trial_and_nothing_else_of_the_cache_does() -> None:
    def cell(*overrides: str) -> str:
        of = identity(*overrides)
        return of.cell_id(of.study.arms[0].centre().settings)

    cells = [cell(), cell("teacher_cache.dtype=fp32"), cell("teacher_cache=null")]
    assert len(set(cells)) == 3
    assert cell("teacher_cache={max_mib: 5, location: elsewhere, seed_from: there}") == cells[0]
    of = identity("teacher_cache=null")
    settings = of.study.arms[0].centre().settings
    assert cells[2] == cell_hash(settings, of.prepared.data_hash, "weights"), "as before there was a cache"


def test_how_teachers_are_computed_identifies_a_trial_unless_as_in_earlier_versions() -> None:
    def cell(*overrides: str) -> str:
        of = identity(*overrides)
        return of.cell_id(of.study.arms[0].centre().settings)

    bf16 = "training.precision=bf16"
    ids = [cell(), cell(bf16), cell(bf16, "teacher_cache.compute=fp32"), cell("teacher_cache.compute=bf16")]
    assert len(set(ids)) == 4
    assert cell("teacher_cache.compute=fp32") == ids[0] and cell(bf16, "teacher_cache.compute=bf16") == ids[1]
    of = identity(bf16)
    settings = of.study.arms[0].centre().settings
    before = cell_hash(settings, of.prepared.data_hash, "weights", cache_dtype="fp16")
    assert ids[2] == before, "a study of an earlier version goes on with compute: fp32"
    live = cell_hash(settings, of.prepared.data_hash, "weights")
    assert cell(bf16, "teacher_cache=null") == live, "without a cache, teachers are computed as ever"


def test_a_lock_of_an_earlier_version_means_float32(home: Path) -> None:
    bf16 = ["training.precision=bf16"]
    of = identity(*bf16)
    lock = json.loads(json.dumps(lock_content(of.study, of)))
    assert lock["settings"]["teacher_cache"]["compute"] is None
    refuse_changes(spec.load("small.yaml", [*bf16, "teacher_cache.compute=bf16"]), lock, home)  # the same, written out
    with pytest.raises(StudyError, match=r"teacher_cache\.compute: 'bf16' -> 'fp32'"):
        refuse_changes(spec.load("small.yaml", [*bf16, "teacher_cache.compute=fp32"]), lock, home)
    settings = of.study.arms[0].centre().settings
    assert yaml.safe_load(export_yaml(lock["settings"], settings))["teacher_cache"]["compute"] is None
    del lock["settings"]["teacher_cache"]["compute"]
    with pytest.raises(StudyError, match=r"teacher_cache\.compute: 'fp32' -> 'bf16'"):
        refuse_changes(spec.load("small.yaml", bf16), lock, home)
    refuse_changes(spec.load("small.yaml", [*bf16, "teacher_cache.compute=fp32"]), lock, home)
    assert yaml.safe_load(export_yaml(lock["settings"], settings))["teacher_cache"]["compute"] == "fp32"
    plain = identity()
    assert "compute" not in lock_content(plain.study, plain)["settings"]["teacher_cache"], "as earlier versions wrote"


def test_a_study_goes_on_with_other_cache_settings_but_not_with_another_precision(home: Path) -> None:
    of = identity()
    lock = json.loads(json.dumps(lock_content(of.study, of)))
    refuse_changes(spec.load("small.yaml", ["teacher_cache={max_mib: 7, location: x}"]), lock, home)
    for override in ("teacher_cache.dtype=fp32", "teacher_cache=null"):
        with pytest.raises(StudyError, match="teacher_cache"):
            refuse_changes(spec.load("small.yaml", [override]), lock, home)
    del lock["settings"]["teacher_cache"]  # a study from before there was a cache, and before precision could be set
    for key in ADDED_LATER["training"]:
        del lock["settings"]["training"][key]
    refuse_changes(spec.load("small.yaml", ["teacher_cache=null"]), lock, home)
    with pytest.raises(StudyError, match="teacher_cache"):
        refuse_changes(spec.load("small.yaml"), lock, home)
    with pytest.raises(StudyError, match=r"training\.precision: 'fp32' -> 'bf16'"):
        refuse_changes(spec.load("small.yaml", ["teacher_cache=null", "training.precision=bf16"]), lock, home)


@pytest.mark.parametrize("override", ["teacher_cache.dtype=fp32", "teacher_cache=null"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_trial_is_told_how_to_use_the_cache(home: Path, override: str, precision: str) -> None:
    of = identity(override, f"training.precision={precision}")
    row = {"trial_id": "t", "cell_id": "c", "role": "search", "arm": "none/kd", "seed": 0, "params": {},
           "settings": of.study.arms[0].centre().settings}  # fmt: skip
    with StudyDirectory(home / "run").opened() as directory:
        payload = json.loads(execution.Run(Outline(of.study), directory, of).payload(TrialRecord(row), None))
    expected = of.study.teacher_cache and of.study.teacher_cache.of_trial({"precision": precision})
    assert TrialConfig.parse(TrialRequest.parse(payload)).teacher_cache == expected
    assert expected is None or expected.compute == precision


# ------------------------------------------------------------------------------------------------- list, verify, prune


def stores(location: Path | None = None) -> list[Store]:
    """Three small stores: 300, 200 and 100 rows, last used 0, 2 and 4 days ago."""
    made = []
    for number, days in enumerate((0, 2, 4)):
        facts = {"rows": 300, "width": 4, "dtype": "fp16", "weights": f"{number}" * 16, "input": [3, 32, 32],
                 "crops": {"pad": 4, "flip": True, "fill": 0}, "precision": ("fp32", "bf16")[number % 2]}  # fmt: skip
        where = location or cache_location()
        store = Store(where, facts, {"network": f"net{number}", "data": "cifar100"})
        rows = np.arange(300 - 100 * number)
        store.put(rows, np.ones((len(rows), 4)) * rows[:, None])
        for path in store.folder.glob("*.rows"):
            os.utime(path, (time.time() - days * 86400 - 10,) * 2)
        made.append(store)
    return made


def test_list_shows_teacher_share_size_and_age(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "cache", "list")
    assert code == 0 and out.strip().endswith("0 stores, 0.0 MiB")
    made = stores()
    code, out, _ = run(capsys, "cache", "list")
    head, *lines, last = out.splitlines()
    assert code == 0 and head.split()[:3] == ["key", "teacher", "weights"] and last.startswith("3 stores, ")
    assert [line.split()[0] for line in lines] == [store.key for store in made]
    first = lines[1].split()
    assert first[1:4] == ["net1", "11111111", "cifar100"] and "3x32x32" in first
    assert head.split()[6:8] == ["compute", "dtype"]
    assert " bf16 " in lines[1] and " fp32 " in lines[0]
    assert "pad 4, flip" in lines[1] and "66.7 %" in lines[1] and "2 d ago" in lines[1]
    (made[0].folder / "header.json").write_text("{")
    assert "header damaged" in run(capsys, "cache", "list")[1]


def test_verify_says_what_is_damaged_and_mends_it(capsys: pytest.CaptureFixture[str]) -> None:
    made = stores()
    code, out, _ = run(capsys, "cache", "verify")
    assert code == 0 and out.count(" 0 damaged") == 3 and "300 rows whole" in out
    with next(made[0].folder.glob("*.rows")).open("r+b") as file:
        file.seek(made[0].shape.data_offset + 2)
        file.write(b"\xff")
    code, out, _ = run(capsys, "cache", "verify", made[0].key[:8])
    assert code == 1 and "1 of 300 rows damaged; computed again" in out and "299 rows whole, 1 damaged" in out
    assert run(capsys, "cache", "verify", made[0].key[:8])[0] == 0
    code, _, err = run(capsys, "cache", "verify", "nothing")
    assert code == 2 and "no store 'nothing'" in err


def test_prune_by_age_size_key_and_all(capsys: pytest.CaptureFixture[str]) -> None:
    made = stores()
    code, _, err = run(capsys, "cache", "prune", "--yes")
    assert code == 2 and "--days N, --max-mib N or --all" in err
    code, out, _ = run(capsys, "cache", "prune", "--days", "3")
    assert code == 0 and "add --yes" in out and all(store.folder.exists() for store in made)
    code, out, _ = run(capsys, "cache", "prune", "--days", "3", "--yes")
    assert [store.folder.exists() for store in made] == [True, True, False] and "removed 1 store" in out
    assert "nothing to remove" in run(capsys, "cache", "prune", "--max-mib", "10", "--yes")[1]
    taken = caches.entries(cache_location())[0].taken / 2**20
    run(capsys, "cache", "prune", "--max-mib", f"{taken}", "--yes")
    assert [store.folder.exists() for store in made] == [True, False, False]
    run(capsys, "cache", "prune", "--key", made[0].key[:6], "--all", "--yes")
    assert not made[0].folder.exists()


def test_another_location_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores(home / "other")
    assert "3 stores" in run(capsys, "cache", "list", "--location", "other")[1]
    assert "0 stores" in run(capsys, "cache", "list")[1]
    code, _, err = run(capsys, "cache", "list", "--location", "nowhere")
    assert code == 2 and "no such folder (--location)" in err


def test_the_cache_commands_load_no_torch() -> None:
    stores()
    code = (
        "import sys; from akdtune import cli; cli.main(['cache', 'list']); cli.main(['cache', 'verify']); "
        "print({'torch', 'ray', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("set()")


# ---------------------------------------------------------------------------------------------------- fill and plan


def test_filled_crops_are_all_different_and_more_of_them_go_on() -> None:
    images = np.array([3, 10, 11, 4000])
    rows = np.stack([fill_rows(images, 162, number) for number in range(162)])
    for index, image in enumerate(images):
        assert sorted(rows[:, index]) == list(range(image * 162, image * 162 + 162))
    assert len({tuple(np.diff(rows[:, index])) for index in range(4)}) > 1, "images differ in what comes first"


def test_fill_computes_what_is_missing_and_a_trial_finds_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "teacher", "fill", "small.yaml")
    assert code == 2 and "akdtune teacher train small.yaml" in err
    assert run(capsys, "teacher", "train", "small.yaml")[0] == 0
    code, out, _ = run(capsys, "teacher", "fill", "small.yaml", "--variants", "2")
    assert code == 0 and "600 rows computed, 0 were there, 7.4 % of 8,100 filled" in out
    code, out, _ = run(capsys, "teacher", "fill", "small.yaml")
    assert code == 0 and "2,100 rows computed, 600 were there, 33.3 % of 8,100 filled" in out
    code, out, _ = run(capsys, "plan", "small.yaml")
    lines = [line for line in out.splitlines() if line.startswith("the teacher of ")]
    assert lines[0].startswith("the teacher of none/kd: is cached: 900 images x 9 crops, at most 0 MiB in fp16")
    assert lines[0].endswith("33.3 % filled here")
    assert lines[1] == "the teacher of none/at: runs live: at needs its maps"
    study = spec.load("small.yaml")
    file = find_teacher(study.teacher, load_data(study.data, CPU), "subset")
    assert file is not None
    settings = study.arms[0].centre().settings
    request = TrialRequest(settings=settings, teacher_file=file, teacher_cache=CacheSettings())
    rows = [epoch.row for epoch in Trial(TrialConfig.parse(request)).run()]
    assert [row["teacher_cache_hit_rate"] for row in rows] == [1.0, 1.0]
    assert [row["teacher_cache_fill_rate"] for row in rows] == [pytest.approx(1 / 3)] * 2


def test_fill_and_plan_go_by_the_precision_of_the_trials(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "teacher", "train", "small.yaml")
    run(capsys, "teacher", "fill", "small.yaml", "--variants", "2")
    code, out, _ = run(capsys, "teacher", "fill", "small.yaml", "--variants", "3", "training.precision=bf16")
    assert code == 0 and "CNN in bf16: 900 rows computed, 0 were there, 11.1 % of 8,100 filled" in out
    for overrides, said in (([], "crops, at most"), (["training.precision=bf16"], "crops, computed in bf16, at most")):
        line = next(line for line in run(capsys, "plan", "small.yaml", *overrides)[1].splitlines() if "cached" in line)
        assert said in line and f"{'11.1' if overrides else '7.4'} % filled here" in line
    factor = [
        "method=kd",
        "search=null",
        "ablation={design: arms, arms: {bf16: {training.precision: bf16}}, seeds: [0]}",
    ]
    code, out, err = run(capsys, "teacher", "fill", "small.yaml", "--variants", "3", *factor)
    assert code == 0, err
    assert "cnn: 300 rows computed, 600 were there" in out.lower() and "0 rows computed, 900 were there" in out
    assert "crops, computed in fp32 and bf16, nothing stored yet" in run(capsys, "plan", "small.yaml", *factor)[1]


def test_fill_goes_by_what_students_see(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "teacher", "train", "small.yaml")
    seen = ["training.augmentation={choice: [weak, {pad: 0}, strong]}", "method=kd", "search.trials=6"]
    code, out, err = run(capsys, "teacher", "fill", "small.yaml", *seen)
    assert code == 0, err
    assert [line.partition(" filled")[0] for line in out.splitlines()] == [
        "CNN (pad 1, no flip): 2,700 rows computed, 0 were there, 33.3 % of 8,100",
        "CNN (pad 0, no flip): 300 rows computed, 0 were there, 33.3 % of 900",
    ]


def test_a_teacher_is_listed_with_its_own_augmentation(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "teacher", "train", "small.yaml", "teacher.augmentation=strong")
    assert "cnn[strong]" in run(capsys, "teacher", "list")[1]


def test_a_fill_that_finds_no_room_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "teacher", "train", "small.yaml")
    code, out, err = run(capsys, "teacher", "fill", "small.yaml", "teacher_cache.max_mib=0")
    assert code == 1 and "no room left" in err and "0.0 % of 8,100 filled" in out


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["teacher_cache=null"], "teacher_cache is null"),
        (["data.augmentation={cutout: 2, mixup: 0.2}"], "more than crop and flip (cutout, mixup)"),
        (["training.augmentation={cutout: 2}"], "training.augmentation does more than crop and flip (cutout)"),
        (["teacher=none", "method=label_smoothing"], "teacher.network is none"),
    ],
)
def test_what_runs_live_is_said_by_plan_and_refused_by_fill(
    capsys: pytest.CaptureFixture[str], overrides: list[str], why: str
) -> None:
    code, _, err = run(capsys, "teacher", "fill", "small.yaml", *overrides)
    assert code == 2 and "nothing to fill: " in err and why in err
    code, out, _ = run(capsys, "plan", "small.yaml", *overrides)
    lines = [line for line in out.splitlines() if line.startswith("the teacher of ")]
    if "teacher=none" in overrides:
        assert lines == []
    else:
        assert [line.partition(": ")[2].startswith("runs live: ") and why in line for line in lines] == [True, True]


def test_plan_of_an_untrained_teacher_and_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "plan", "small.yaml")[1].splitlines()
    assert "the teacher of none/kd: is cached: 900 images x 9 crops, nothing stored yet" in lines
    others = "teacher.others=[{network: {name: cnn, widths: [3]}, epochs: 1}]"
    lines = run(capsys, "plan", "small.yaml", others, "method=at")[1].splitlines()
    assert "the teacher of none/at: runs live: at needs its maps; further teachers are cached" in lines


def test_prune_keeps_what_is_newer() -> None:
    stores()
    entries = caches.entries(cache_location())
    now = entries[0].used_at
    assert caches.to_prune(entries, 86400.0, None, now) == entries[1:]
    assert caches.to_prune(entries, None, 0, now) == entries[::-1]
    assert caches.to_prune(entries, None, None, now) == []
    assert caches.age(59) == "59 s" and caches.age(7300) == "2 h" and caches.age(1e6) == "12 d"


def test_every_network_of_the_zoo_says_the_same_at_any_place_of_a_batch() -> None:
    """What the cache stands on, for one small member of some families, at the size that is used."""
    size = COMPUTE_BATCH["cpu"]
    images = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name in ("resnet8", "MobileNetV2", "ShuffleV2"):
        of = networks.build(name, InputSpec(3, 32, 10), 0).eval()
        with torch.no_grad():
            there, back = of(images), of(images.flip(0))
        assert torch.equal(there.pooled_BC, back.pooled_BC.flip(0)), name
