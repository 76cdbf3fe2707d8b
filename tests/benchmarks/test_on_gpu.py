"""The prepared command for a GPU machine: what is carried, how its parts run, what is read from them."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement

from benchmarks.on_gpu import prepare, run
from benchmarks.on_gpu.read import BEGIN, END, with_block
from benchmarks.on_gpu.read import main as read
from benchmarks.on_gpu.run import FASTER, PLANS, PUBLISHED, SPEEDS, Session, fitting_keys, switched
from benchmarks.on_gpu.sheets import unpack
from cfamc_ray.training.speedups import Speedups

ROOT = Path(__file__).parents[2]
LARGE = ("torch", "torchvision", "numpy", "pillow", "scipy", "matplotlib", "tensorboard")
"""What the machine itself has to have."""
OPTIONAL = ("charset-normalizer", "colorama", "tqdm")
"""What numpy, torch and tqdm import where it is installed, and do without elsewhere."""
IMPORTED = "cfamc_ray.train cfamc_ray.evaluate cfamc_ray.training.recording benchmarks.training_step"
LISTED = f"""
import importlib, json, sys
from importlib.metadata import packages_distributions
before = set(sys.modules)
for name in "{IMPORTED}".split():
    importlib.import_module(name)
of_module = packages_distributions()
tops = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(json.dumps([of_module[top] for top in sorted(tops) if top in of_module]))
"""
"""Prints the packages of each imported module; several share a namespace such as google."""


def normalised(package: str) -> str:
    return re.sub("[-_.]+", "-", package).lower()


def needed_by(packages: Sequence[str]) -> set[str]:
    """Packages and all that they need."""
    found, left = set(), list(packages)
    while left:
        package = left.pop()
        if package in found:
            continue
        found.add(package)
        listed = map(Requirement, requires(package) or [])
        left += [normalised(each.name) for each in listed if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A small cifar10.npz, where CFAMC_DATA names it; no wheel is downloaded."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {"classes": np.array([f"class {number}" for number in range(10)])}
    for split, count in (("train", 1600), ("test", 1000)):
        arrays[f"y_{split}"] = np.sort(generator.integers(0, 10, count)).astype(np.uint8)
        noise = generator.integers(0, 16, (count, 32, 32, 3))
        arrays[f"x_{split}"] = (noise + 20 * arrays[f"y_{split}"][:, None, None, None]).astype(np.uint8)
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "cifar10.npz", **arrays)
    monkeypatch.setenv("CFAMC_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(prepare, "download", lambda *_: None)
    return arrays


def test_as_many_images_are_carried_as_fit_each_class_in_proportion(data: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "carried"
    (folder / "old").mkdir(parents=True)
    assert prepare.main(["--folder", str(folder), "--test-images", "700", "--mebibytes", "2.2"]) == 0
    assert not (folder / "old").exists()
    assert prepare.size_of(folder) <= 2.2 * 2**20
    counts = unpack(folder, tmp_path / "unpacked" / "cifar10.npz")
    assert counts == {"train": 500, "test": 700}
    with np.load(tmp_path / "unpacked" / "cifar10.npz") as unpacked:
        assert set(unpacked) == set(data)
        for split in counts:
            x, y = unpacked[f"x_{split}"], unpacked[f"y_{split}"]
            known = dict(zip(map(bytes, data[f"x_{split}"]), data[f"y_{split}"], strict=True))
            assert [known[bytes(image)] for image in x] == y.tolist()  # pixel by pixel
            assert len(set(map(bytes, x))) == counts[split]
            shares = np.bincount(data[f"y_{split}"]) * counts[split] / len(data[f"y_{split}"])
            assert np.abs(np.bincount(y) - shares).max() < 2


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--mebibytes", "0.5"], "--mebibytes 0.5: leaves no room"),
        (["--also", "no-such-package"], "--also no-such-package: requirements.txt does not name it"),
    ],
)
def test_what_cannot_be_prepared_is_said(
    words: list[str], problem: str, data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(prepare, "download", lambda _, packages: [prepare.requirement(name) for name in packages])
    assert prepare.main(["--folder", str(tmp_path / "carried"), *words]) == 2
    assert problem in capsys.readouterr().err


def test_without_images_nothing_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CFAMC_DATA", str(tmp_path))
    assert prepare.main(["--folder", str(tmp_path / "carried")]) == 2
    assert "cifar10.npz: there is none" in capsys.readouterr().err


def test_all_that_is_imported_without_ray_is_carried_or_on_the_machine() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    listed = subprocess.run(
        [sys.executable, "-c", LISTED], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    imported = [set(map(normalised, packages)) for packages in json.loads(listed.stdout)]
    assert [{"pydantic"}, {"ruamel-yaml"}] == [one for one in imported if one & {"pydantic", "ruamel-yaml"}]
    known = {*prepare.WHEELS, *needed_by(LARGE), *OPTIONAL, "cfamc-ray"}
    assert [packages for packages in imported if not packages & known] == []
    assert needed_by(prepare.WHEELS) <= {*prepare.WHEELS}


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(PLANS["tiny"], tmp_path / "out", tmp_path / "work", "cpu")


def entries(session: Session) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (session.out / "parts.jsonl").read_text().splitlines()]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_part_that_fails_leaves_a_log_and_the_others(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    result = session.out.parent / "result.json"
    assert not session.part("one", python("print('before'); raise SystemExit(3)"), result=result)
    assert session.part("two", python(f"print('all well'); open({str(result)!r}, 'w').write('[1]')"), result=result)
    result.unlink()
    assert not session.part("three", python("pass"), result=result)
    assert [(each["part"], each["status"], each.get("result")) for each in entries(session)] == [
        ("one", "failed: exit code 3", None),
        ("two", "done", [1]),
        ("three", "failed: left no result.json", None),
    ]
    assert "before\n" in (session.out / "log.txt").read_text()
    assert "    before" in capsys.readouterr().out
    assert list(session.found) == ["two"]


BEGUN = """
import pathlib, subprocess, sys, time
print("begun", flush=True)
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
quiet = {{"stderr": subprocess.DEVNULL}}  # the child of the same group is interrupted, too
children = [subprocess.Popen(sleep, start_new_session=new, **quiet) for new in (False, True)]  # as torch's workers
pathlib.Path("{file}").write_text(" ".join(str(child.pid) for child in children))
time.sleep(600)
"""
ENDED = """
import sys
from pathlib import Path
from benchmarks.on_gpu.run import PLANS, Session, adopt_orphans
session = Session(PLANS["tiny"], Path("{out}"), Path("{out}"), "cpu", adopts=adopt_orphans())
assert not session.part("long", [sys.executable, "-c", sys.argv[1]], limit=5)
"""


def test_a_part_that_takes_too_long_is_ended_with_all_that_it_started(session: Session) -> None:
    file = session.out / "children"
    code = [ENDED.format(out=session.out), BEGUN.format(file=file)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", *code], env=environment, check=True)
    (entry,) = entries(session)
    assert (entry["status"], entry["last_line"]) == ("failed: not done within 5 s", "KeyboardInterrupt")
    assert "begun\n" in (session.out / "log.txt").read_text()
    left = [Path(f"/proc/{child}") for child in file.read_text().split()]
    assert len(left) == 2
    for _ in range(100):
        if not any(path.exists() for path in left):
            break
        time.sleep(0.1)
    else:
        pytest.fail("what the part started is still running")


def test_without_time_a_part_is_left_out(session: Session) -> None:
    assert not session.part("late", python("pass"), limit=-3)
    assert [each["status"] for each in entries(session)] == ["left out: no time"]


@pytest.mark.parametrize("name", ["cuda_graph", "fused_norm", "all"])
def test_what_no_cpu_can_is_left_out_on_one(session: Session, name: str) -> None:
    run.measure_step(session, name, SPEEDS[name])
    assert [each["status"] for each in entries(session)] == ["left out: needs a GPU"]


def test_every_key_is_switched_on_or_off() -> None:
    words = dict(word.split("=") for word in switched(("compile", "fused_norm"))[1::2])
    assert words == {f"pretraining.{key}": "true" if key in ("compile", "fused_norm") else "false" for key in FASTER}
    assert set(FASTER) == set(Speedups._fields)


def speed(crops_per_s: float, **more: Any) -> dict[str, Any]:
    """What a part finds that measures the step."""
    return {
        "ours": {"crops_per_s": {"median": crops_per_s}},
        "milliseconds_per_replay": {"median": 1.6e6 / crops_per_s},
        "peak_memory_bytes": 20e9,
        "device": "NVIDIA H100 80GB HBM3",
        "environment": {"date": "2026-11-27T10:00:00+00:00", "versions": {"torch": "2.11.0"}},
        **more,
    }


@pytest.mark.parametrize(
    ("seconds_left", "crops_per_s", "images", "epochs"),
    [
        (280, 60_000, 30_000, 7),  # 200 s of 60,000 at 0.85: 10.2 million passes, 1.44 million an epoch
        (90, 10_000, 1_700, 1),  # 10 s: less than an epoch, so fewer images
        (10_000, 60_000, 30_000, 16),  # never more than the paper's passes
    ],
)
def test_a_run_is_as_long_as_the_time_that_is_left(
    seconds_left: float, crops_per_s: float, images: int, epochs: int, tmp_path: Path
) -> None:
    session = Session(PLANS["lease"], tmp_path / "out", tmp_path, "cuda")
    session.started = time.monotonic() - (PLANS["lease"].seconds - seconds_left)
    session.found = {"eager": {"result": speed(crops_per_s / 2)}, "all": {"result": speed(crops_per_s)}}
    assert run.fastest(session) == "all"
    assert fitting_keys(session, 30_000) == [
        f"data.pretrain_images={images}", f"data.probe_images={images}", f"pretraining.epochs={epochs}"
    ]  # fmt: skip


def write_parts(folder: Path) -> None:
    results = [
        {"epsilon": 0.0, "attack": "none", "label": "none", "accuracy": 0.7, "images": 2000},
        {"epsilon": 8 / 255, "attack": "pgd", "label": "PGD-20", "accuracy": 0.305, "images": 1000},
    ]
    parts: dict[str, Any] = {
        "plan": {"last_line": "lease"},
        "eager": {"result": speed(50_000)},
        "compile": {"status": "failed: exit code 1"},
        "cuda_graph": {"status": "left out: no time"},
        "all": {"result": speed(80_000)},
        "small eager": {"result": speed(400_000)},
        PUBLISHED: {"result": speed(49_000, reference={"crops_per_s": {"median": 10_000}})},
        "training": {"result": [{"epoch": 7, "crop_passes": 10_080_000, "train_seconds": 150.0}]},
        "evaluation": {"result": {"trial": {"data": {"pretrain_images": 30_000}}, "results": results}},
    }
    lines = [json.dumps({"part": name, "status": "done", **part}) for name, part in parts.items()]
    (folder / "parts.jsonl").write_text("\n".join(lines) + "\n")


TABLE = """\
| step | ms a replay | crop passes/s | × published loop | minutes for 2.4e7 | memory, GB |
|---|---|---|---|---|---|
| eager | 32.0 | 50,000 | 5.00 | 8.0 | 20.0 |
| compile | failed | – | – | – | – |
| cuda_graph | left out | – | – | – | – |
| all | 20.0 | 80,000 | 8.00 | 5.0 | 20.0 |
| small eager (width 16) | 4.0 | 400,000 | – | 1.0 | 20.0 |

`cf-amc-ssl`, published, 7 epochs of 30,000 images of CIFAR-10 (10,080,000 crop passes, 2.5 minutes): 70.0 % clean \
(n=2,000), 30.5 % under PGD-20 at 8/255 (n=1,000).
"""


def test_what_was_measured_is_a_file_and_a_table(tmp_path: Path) -> None:
    write_parts(tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("# A\n\n## Measured\n\nSpeed.\n\n## Next\n")
    for _ in range(2):  # the second time in the place of the first
        assert read([str(tmp_path), "--results", str(tmp_path), "--page", str(readme)]) == 0
        text = readme.read_text()
        assert text.startswith(f"# A\n\n## Measured\n\n{BEGIN}\n\nOn one NVIDIA H100 80GB HBM3 with torch 2.11.0")
        assert text.endswith(f"{TABLE}\n{END}\n\nSpeed.\n\n## Next\n")
        assert "10,000 crop passes a second" in text
    found = json.loads((tmp_path / "gpu_nvidia_h100_80gb_hbm3_lease.json").read_text())
    assert found["environment"]["date"] == "2026-11-27T10:00:00+00:00"
    assert found["parts"]["compile"] == {"status": "failed: exit code 1"}


def test_several_sessions_are_read_as_one(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
        write_parts(folder)
    second = [
        {"part": "eager", "status": "failed: exit code 1"},
        {"part": "compile", "status": "done", "result": speed(60_000)},
    ]
    (folders[1] / "parts.jsonl").write_text("".join(json.dumps(part) + "\n" for part in second))
    (tmp_path / "page.md").write_text("## Measured\n\nSpeed.\n")
    assert read([*map(str, folders), "--results", str(tmp_path), "--page", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text()
    assert "| eager | 32.0 | 50,000 |" in page
    assert "| compile | 26.7 | 60,000 |" in page


def test_sessions_on_several_cards_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for card in ("NVIDIA A100", "NVIDIA H100"):
        (tmp_path / card).mkdir()
        part = {"part": "eager", "status": "done", "result": speed(50_000, device=card)}
        (tmp_path / card / "parts.jsonl").write_text(json.dumps(part) + "\n")
    assert read([str(tmp_path / "NVIDIA A100"), str(tmp_path / "NVIDIA H100")]) == 2
    assert "several cards (NVIDIA A100, NVIDIA H100)" in capsys.readouterr().err


def test_a_page_without_the_heading_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_parts(tmp_path)
    (tmp_path / "README.md").write_text("# A\n")
    assert read([str(tmp_path), "--results", str(tmp_path), "--page", str(tmp_path / "README.md")]) == 2
    assert "--after ## Measured: the page has no such heading" in capsys.readouterr().err
    assert not list(tmp_path.glob("gpu_*.json"))


def test_the_page_of_results_has_the_heading() -> None:
    assert BEGIN in with_block(
        (ROOT / "docs" / "results.md").read_text(encoding="utf-8"), f"{BEGIN}\n{END}", "## Measured"
    )


@pytest.mark.parametrize("content", [None, "no JSON", '{"part": "eager", "status": "failed: exit code 1"}\n'])
def test_a_folder_without_measurements_is_refused(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "parts.jsonl").write_text(content)
    assert read([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_the_keys_that_make_a_step_faster_are_all_measured_alone_and_together() -> None:
    assert [on for on in SPEEDS.values() if len(on) == 1] == [(key,) for key in FASTER]
    assert SPEEDS["all"] == FASTER


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_preparation_to_the_table(data: dict[str, Any], tmp_path: Path) -> None:
    folder, out = tmp_path / "carried", tmp_path / "out"
    assert prepare.main(["--folder", str(folder)]) == 0
    words = ["tiny", "--device", "cpu", "--folder", str(folder), "--out", str(out)]
    command = [sys.executable, "-m", "benchmarks.on_gpu.run", *words]
    parts = ["tests", "eager", "small eager", PUBLISHED, "training", "evaluation"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--parts", *parts], cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, (out / "log.txt").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["log.txt", "parts.jsonl"]
    readme = tmp_path / "README.md"
    readme.write_text((ROOT / "docs" / "results.md").read_text(encoding="utf-8"), encoding="utf-8")
    assert read([str(out), "--results", str(tmp_path), "--page", str(readme)]) == 0
    (file,) = tmp_path.glob("gpu_*_tiny.json")
    found = json.loads(file.read_text())["parts"]
    assert {name: each["status"] for name, each in found.items()} == dict.fromkeys(["plan", "images", *parts], "done")
    assert found[PUBLISHED]["result"]["reference"]["crops_per_s"]["median"] > 0
    assert len(found["evaluation"]["result"]["results"]) == 5
    assert re.search(r"\| eager \| [\d.]+ \| [\d,]+ \|", readme.read_text(encoding="utf-8"))
