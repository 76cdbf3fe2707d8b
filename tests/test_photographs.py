"""JPEG files of several sizes from the folder to the attack: one cache, training with two workers, evaluation."""

import json
from pathlib import Path

import pytest
from test_train_command import Said, said_by

from benchmarks.photographs import write_photographs
from cfamc_ray.evaluate import main as evaluate
from cfamc_ray.train import main as train
from cfamc_ray.tune import main as tune

pytestmark = pytest.mark.long

KEYS = {
    "data.name": "imagefolder",
    "data.path": "photographs",
    "data.image_size": 224,
    "data.pretrain_images": 16,
    "data.probe_images": 40,
    "data.validation_images": 20,
    "crops.size": 224,
    "crops.views": 2,
    "encoder.stem": "large",
    "encoder.width": 4,
    "encoder.prefeature_width": 64,
    "encoder.hidden_width": 16,
    "encoder.embedding_width": 8,
    "pretraining.batch_images": 8,
    "pretraining.epochs": 1,
    "pretraining.replays": 2,
    "pretraining.precision": "float32",
    "evaluation.epsilon": 1e-6,
    "evaluation.attacked_images": 10,
    "evaluation.attack.steps": 2,
}
SETTINGS = [word for key, value in KEYS.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of data sets: 80 files of 256 to 500 pixels in two classes."""
    folder = tmp_path_factory.mktemp("data")
    write_photographs(folder / "photographs", 80, classes=2)
    return folder


@pytest.fixture(autouse=True)
def _in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFAMC_DATA", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def row_of(run: Path) -> dict[str, float]:
    (line,) = (run / "trial_00000" / "epochs.jsonl").read_text().splitlines()
    row: dict[str, float] = json.loads(line)
    return row


def check_cache(folder: Path) -> None:
    """There is one cache with all images, whoever needed it."""
    (cached,) = (folder / "imagefolder-cache").iterdir()
    sizes = {file.name: file.stat().st_size for file in cached.glob("*.npy")}
    images = {split: len(list((folder / "photographs" / split).rglob("*.jpg"))) for split in ("train", "test")}
    assert sizes == {f"{split}-images.npy": 128 + count * 3 * 224**2 for split, count in images.items()}


def ran(said: Said) -> None:
    assert said.code == 0, said.err


def test_one_worker_and_two_train_on_one_cache_and_the_margins_attack_evaluates(folder: Path, tmp_path: Path) -> None:
    one_thread = ("--set", "resources.cpus_per_worker=1", "--out", str(tmp_path))
    ran(said_by(train, "--recipe", "cf-amc-ssl", "--name", "one", *SETTINGS, *one_thread))
    check_cache(folder)
    (cached,) = (folder / "imagefolder-cache").iterdir()
    made = cached.stat().st_ino
    ran(said_by(train, "--recipe", "cf-amc-ssl", "--name", "two", "--workers", "2", *SETTINGS, *one_thread))
    check_cache(folder)
    assert cached.stat().st_ino == made
    one, two = row_of(tmp_path / "one"), row_of(tmp_path / "two")
    assert one["crop_passes"] == two["crop_passes"] == 16 * 2 * 2
    assert one["clean_accuracy"] > 0.6, "the classes differ in colour"
    assert one["robust_accuracy"] > 0.5
    attack = ("attack={name: margins, steps: 2}", "epsilons=[8/255]", "margin_check=false", "autoattack_images=0")
    few = ("images=14", "attacked_images=6", *attack)
    record = tmp_path / "record.json"
    overrides = [word for each in few for word in ("--set", each)]
    ran(said_by(evaluate, str(tmp_path / "one"), *overrides, "--out", str(record)))
    clean, attacked = json.loads(record.read_text())["results"]
    assert (clean["images"], attacked["images"]) == (14, 6)
    assert clean["right"] >= 9
    assert attacked["right"] < 6, "a network that has hardly been trained resists no attack of 8/255"


def test_a_study_of_two_trials_at_once_uses_the_cache(folder: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("""
name: photographs
question: Do two trials at once share the cache?
budget: {trials: 2}
search: {sampler: grid}
resources: {trials_at_once: 2, cpus_per_worker: 1}
space: {pretraining.replays: {choice: [1, 2]}}
""")
    words = [word for word in SETTINGS if not word.startswith("pretraining.replays")]
    trial = [f"trial.{word}" for word in words if word != "--set"]
    ran(said_by(tune, "--space", str(space), "--out", str(tmp_path), *(w for each in trial for w in ("--set", each))))
    check_cache(folder)
    trials = [json.loads((tmp_path / "photographs" / f"trial_0000{n}" / "epochs.jsonl").read_text()) for n in (0, 1)]
    assert sorted(row["crop_passes"] for row in trials) == [32, 64]
