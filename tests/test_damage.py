"""Every file of a study damaged in every way, and every command that reads it."""

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import optuna
import pytest
import torch
from cells_by_hand import found_of
from damaging import DAMAGES, files
from processes import Command
from test_scale_command import CONFIG as SCALING
from test_scale_command import write_trials
from test_train_command import Said, said_by, tiny_study, train_into

import cfamc_ray.orchestration.run as orchestration
from cfamc_ray.cli.compare import main as compare
from cfamc_ray.cli.effects import main as effects
from cfamc_ray.cli.front import main as front
from cfamc_ray.cli.report import main as report
from cfamc_ray.cli.scaling import main as analyse_scaling
from cfamc_ray.config.reading import dump_study
from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.yaml12 import dump_yaml
from cfamc_ray.data.content import content_digest
from cfamc_ray.data.splits import load_splits
from cfamc_ray.evaluate import main as evaluate
from cfamc_ray.front.finalists import confirming_study
from cfamc_ray.method.encoder import save_encoder
from cfamc_ray.orchestration import confirmation
from cfamc_ray.scale import main as scale
from cfamc_ray.search.bookkeeping import open_study, reconcile
from cfamc_ray.search.search import Search
from cfamc_ray.search.storage import open_storage
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.cells import CellFolder
from cfamc_ray.store.epoch_rows import Row
from cfamc_ray.store.images import note
from cfamc_ray.store.records import TrialFolder, TrialRecord, read_trials, write_config
from cfamc_ray.store.stop_reason import StopReason
from cfamc_ray.store.tested import PointTest
from cfamc_ray.train import main as train
from cfamc_ray.training.recording import RecordedTrial
from cfamc_ray.training.trainer import initial_encoder
from cfamc_ray.training.trial import Trial
from cfamc_ray.tune import main as tune

pytestmark = pytest.mark.usefixtures("nothing_is_drawn", "few_points_are_checked")

WIDTHS = {"width": 8, "prefeature_width": 8, "hidden_width": 8, "embedding_width": 8}
STUDY = StudyConfig.model_validate(
    {
        "name": "small",
        "budget": {"trials": 4},
        "keep_encoders": "all",
        "trial": {
            "data": {
                "name": "digits",
                "image_size": 16,
                "pretrain_images": 100,
                "probe_images": 50,
                "validation_images": 20,
            },
            "crops": {"size": 16},
            "encoder": WIDTHS,
            "pretraining": {"batch_images": 10, "epochs": 2},
        },
        "space": {"crops.views": {"int": [2, 40]}, "perturbation.epsilon": {"float": ["1/255", "16/255"]}},
    }
)
RAN: list[Status] = ["finished", "finished", "stopped", "failed"]
FILES = [
    *("study.yaml", "environment.json", "images.json", "optuna.db", "driver.lock", "confirm.csv", "attainment.csv"),
    *("trials.csv", "front.csv", "trial_00000/trial.json", "trial_00001/epochs.jsonl", "trial_00001/events.out"),
    *("trial_00001/encoder.safetensors", "trial_00002/trial.json", "trial_00002/epochs.jsonl"),
    *("trial_00002/outcome.json", "trial_00003/outcome.json", "trial_00003/checkpoint.pt"),
]
TRAINED_AGAIN = {
    "trial_00001/epochs.jsonl": [1],
    "trial_00002/epochs.jsonl": [2],
    "trial_00002/outcome.json": [2],
    "trial_00003/outcome.json": [3],
}
"""What cannot be made anew but by training."""
NEEDED_BY_ONE = [
    *("study.yaml", "images.json", "optuna.db", "trial_00000/trial.json", "trial_00001/epochs.jsonl"),
    *("trial_00001/encoder.safetensors", "trial_00002/trial.json"),
]
"""What a command might read that is about one trial."""
RECORDS = ("trial.json", "epochs.jsonl", "outcome.json")
ENDED_BY_CHANCE = {("trial_00002/epochs.jsonl", "missing")}
"""A trial may be stopped in its first epoch, so nothing tells that rows are missing."""


class Damage(NamedTuple):
    """A study of which one file was damaged."""

    study: Path
    file: str
    kind: str
    before: dict[str, bytes]

    @property
    def path(self) -> Path:
        return self.study / self.file

    @property
    def in_records(self) -> bool:
        """Whether the study misses something that its driver has to mend."""
        if (self.file, self.kind) in ENDED_BY_CHANCE:
            return False
        return self.file == "study.yaml" or self.path.name in RECORDS


def rows_of(number: int, *, done: bool) -> list[Row]:
    scores = {"clean_accuracy": 0.5 + number / 10, "robust_accuracy": 0.5 - number / 10}
    costs = {"flops": 10**9, "train_seconds": 6.0, "eval_seconds": 1.0, "peak_memory_bytes": 10**8}
    epochs = (1, 2) if done else (1,)
    return [{"epoch": e, "done": e == 2, "crop_passes": 100 * e, **scores, **costs, "device": "CPU"} for e in epochs]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with a file of every kind, which tests copy."""
    folder = tmp_path_factory.mktemp("whole") / "small"
    folder.mkdir()
    write_config(folder, STUDY)
    (folder / "environment.json").write_text('{"versions": {"torch": "2.11"}}\n')
    note(folder, {"data": content_digest(STUDY.trial.data)}, config=STUDY)
    (folder / "driver.lock").write_text("process 1 on here\n")
    (folder / "confirm.csv").write_text("trial_id,seeds,front_probability,clean_accuracy_mean\ntrial_00000,2,0.9,0.5\n")
    (folder / "attainment.csv").write_text("attained_by,clean_accuracy,robust_accuracy\n0.5,0.4,0.3\n0.5,0.5,0.2\n")
    for name in ("trials.csv", "front.csv"):
        (folder / name).write_text("trial_id,status\ntrial_00000,finished\n")
    for number, status in enumerate(RAN):
        trial = TrialFolder(folder, number)
        trial.open({"crops.views": number + 2, "perturbation.epsilon": 8 / 255})
        trial.write_rows(rows_of(number, done=status == "finished"))
        (trial.path / "events.out").write_bytes(b"events")
        if status == "finished":
            config = STUDY.trial_at({"crops.views": 2})
            save_encoder(trial.encoder, initial_encoder(config), config.encoder)
        else:
            torch.save({"rows": []}, trial.checkpoint)
            trial.close(status, "fell behind after epoch 1")
    reconcile(open_study(STUDY, open_storage(folder)), STUDY, read_trials(folder))
    return folder


@pytest.fixture(
    params=[
        kind if kind in ("truncated", "missing") else pytest.param(kind, marks=pytest.mark.long) for kind in DAMAGES
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def damaged(file: str, kind: str, whole: Path, tmp_path: Path) -> Damage:
    study = Path(shutil.copytree(whole, tmp_path / "runs" / "small"))
    DAMAGES[kind](study / file)
    return Damage(study, file, kind, files(whole))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the trials that Ray would have trained: all of `run_study` is real but Ray. No report is made."""
    monkeypatch.setattr("cfamc_ray.report.page.write_report", lambda *_, **__: Path("report"))
    numbers: list[int] = []

    @contextmanager
    def running_ray(*_: object) -> Iterator[io.StringIO]:
        yield io.StringIO()

    def tuner(config: StudyConfig, folder: Path, search: Search, _: object) -> SimpleNamespace:
        def fit() -> None:
            while (proposal := search.suggest()) is not None:
                trial = TrialFolder(folder, proposal.number)
                trial.open(proposal.point)
                trial.write_rows(rows_of(proposal.number, done=True))
                numbers.append(proposal.number)
                record = trial.read()
                assert record is not None
                search.ended(record)

        return SimpleNamespace(fit=fit)

    monkeypatch.setattr(orchestration, "running_ray", running_ray)
    monkeypatch.setattr(orchestration, "_tuner", tuner)
    monkeypatch.setattr(orchestration, "StudyCallback", lambda *_: None)
    return numbers


def type_tune(study: Path, *words: str) -> Said:
    (study.parent / "small.yaml").write_text(dump_study(STUDY))
    return said_by(tune, "--space", str(study.parent / "small.yaml"), "--out", str(study.parent), *words)


def others(study: Path, damage: Damage) -> dict[int, TrialRecord]:
    """The trials that the damage did not meet."""
    return {record.number: record for record in read_trials(study) if record.trial_id not in damage.file}


@pytest.mark.parametrize("file", [name for name in FILES if Path(name).name in ("study.yaml", *RECORDS)])
@pytest.mark.parametrize("command", [front, effects, compare], ids=["front", "effects", "compare"])
def test_the_analyses_leave_out_what_is_damaged_and_say_so(
    file: str, whole: Path, tmp_path: Path, command: Callable[..., int]
) -> None:
    study = Path(shutil.copytree(whole, tmp_path / "small"))
    DAMAGES["other"](study / file)
    said = said_by(command, str(study))
    assert said.code == (2 if file == "study.yaml" else 0)
    assert str(study / file) in said.err


def test_a_report_leaves_out_what_is_damaged_and_says_so(damaged: Damage, whole: Path) -> None:
    known, before = others(damaged.study, damaged), files(damaged.study)
    said = said_by(report, str(damaged.study))
    if damaged.file == "study.yaml":
        assert (said.code, said.out) == (2, "")
        assert str(damaged.study) in said.err
        assert "Traceback" not in said.err
    else:
        assert said.code == 0
        missing = damaged.kind == "missing" and damaged.path.name != "trial.json"  # nothing tells that it was there
        assert (str(damaged.path) in said.err) is (damaged.path.name in RECORDS and not missing)
    assert known == others(whole, damaged)
    after = files(damaged.study)
    assert {name: after[name] for name in before} == before


def test_a_finished_study_is_shown_unless_its_records_are_damaged(damaged: Damage, trained: list[int]) -> None:
    before = files(damaged.study)
    said = type_tune(damaged.study)
    assert trained == []
    if damaged.in_records:
        assert (said.code, said.out) == (2, "")
        assert "of 4 trials ended" in said.err
        assert "--resume" in said.err
        if damaged.kind != "missing" or damaged.path.name in ("trial.json", "study.yaml"):
            assert str(damaged.path) in said.err.partition("(damaged or missing: ")[2]
        assert files(damaged.study) == before
    else:
        assert (said.code, said.err) == (0, "")
        assert "2 of 2 finished trials are on the front of small" in said.out


def test_resume_mends_what_is_damaged_and_keeps_all_else(damaged: Damage, trained: list[int]) -> None:
    bad = damaged.path.read_bytes() if damaged.path.exists() else None
    said = type_tune(damaged.study, "--resume")
    assert said.code == 0, said
    assert trained == (TRAINED_AGAIN.get(damaged.file, []) if damaged.in_records else [])
    records = {record.number: record for record in read_trials(damaged.study)}
    assert [record.ended for record in records.values()] == [True] * 4
    kept = damaged.path.with_name(f"{damaged.path.name}.damaged")
    if damaged.in_records and bad is not None:
        assert kept.read_bytes() == bad
        assert f"{damaged.path}: damaged (" in said.err
        assert f"kept as {kept.name}" in said.err
    after = files(damaged.study)
    folder = damaged.file.partition("/")[0]
    same = [name for name in damaged.before if name.startswith("trial_0") and not name.startswith(f"{folder}/")]
    assert {name: after[name] for name in same} == {name: damaged.before[name] for name in same}
    if folder.startswith("trial_0") and damaged.path.name == "trial.json":
        assert json.loads(damaged.path.read_bytes()) == json.loads(damaged.before[damaged.file])
    assert type_tune(damaged.study).code == 0


@pytest.mark.parametrize("file", ["trial_00002/epochs.jsonl", "optuna.db", "trial_00000/trial.json"])
def test_what_is_damaged_where_a_study_goes_on_is_mended_too(
    file: str, kind: str, whole: Path, tmp_path: Path, trained: list[int]
) -> None:
    study = Path(shutil.copytree(whole, tmp_path / "runs" / "small"))
    DAMAGES[kind](study / file)
    said = type_tune(study, "--resume", "--trials", "6")
    assert said.code == 0
    again = [2] if file.endswith("epochs.jsonl") and kind != "missing" else []
    assert trained == [*again, 4, 5]
    points = [tuple(record.point.values()) for record in read_trials(study)]
    assert len(set(points)) == len(points) == 6
    set_aside = (study / f"{file}.damaged").exists()
    keeps = file == "optuna.db" and kind in ("empty", "missing")  # SQLite takes an empty file for an empty database
    assert set_aside is not (keeps or kind == "missing")


def test_a_trial_that_nothing_tells_the_point_of_is_set_aside_and_another_takes_its_place(
    whole: Path, tmp_path: Path, trained: list[int]
) -> None:
    study = Path(shutil.copytree(whole, tmp_path / "runs" / "small"))
    for file in ("optuna.db", "trial_00001/trial.json"):
        DAMAGES["zeros"](study / file)
    said = type_tune(study, "--resume")
    assert said.code == 0
    assert f"{study / 'trial_00001'}: its point is lost; kept as trial_00001.damaged" in said.err
    assert (study / "trial_00001.damaged" / "epochs.jsonl").exists()
    assert trained == [4]
    assert [record.number for record in read_trials(study)] == [0, 2, 3, 4]


def test_a_taken_over_trial_that_is_damaged_is_taken_over_again_and_not_trained(
    whole: Path, tmp_path: Path, trained: list[int], kind: str
) -> None:
    earlier = Path(shutil.copytree(whole, tmp_path / "earlier"))
    write_config(earlier, STUDY.model_copy(update={"name": "earlier"}))
    study = tmp_path / "runs" / "small"
    study.mkdir(parents=True)
    assert type_tune(study, "--warm-start", str(earlier)).code == 0
    first = [(record.number, record.source) for record in read_trials(study) if record.source]
    assert first == [(n, f"earlier/trial_0000{n}") for n in range(3)]
    assert trained == [3, 4, 5, 6]
    trained.clear()

    DAMAGES[kind](study / "trial_00001" / "epochs.jsonl")
    said = type_tune(study, "--resume", "--warm-start", str(earlier))
    assert (said.code, trained) == (0, [])
    assert f"{study / 'trial_00001'}: was warm-started from earlier/trial_00001 and is no longer whole" in said.err
    assert "1 trials warm-started from" in said.out
    assert (study / "trial_00001.damaged" / "trial.json").exists()
    again = {record.source: record for record in read_trials(study) if record.source}
    assert again["earlier/trial_00001"].number == 7
    assert again["earlier/trial_00001"].value("clean_accuracy") == 0.6


class TestEvaluate:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cfamc_ray.evaluation.protocols.measure_on", lambda *_, **__: iter(()))

    @pytest.mark.parametrize("file", NEEDED_BY_ONE)
    def test_it_needs_study_trial_and_encoder_and_no_more(self, damaged: Damage) -> None:
        number = 0 if damaged.file.startswith("trial_00000") else 1
        said = said_by(evaluate, str(damaged.study / f"trial_0000{number}"), "--quiet")
        needed = ("study.yaml", "trial_00000/trial.json", "trial_00001/encoder.safetensors")
        assert said.code == (2 if damaged.file in needed else 0), said
        if damaged.file in needed and damaged.kind != "missing":
            assert said.err.startswith(f"{damaged.path}: ")
            assert said.err.count("\n") <= 2


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert train_into(runs, "--set", "encoder.width=8").code == 0
    return runs / "cf-amc-ssl"


class TestTrain:
    @pytest.mark.parametrize("file", NEEDED_BY_ONE)
    def test_a_trial_of_a_damaged_study_is_trained_where_its_point_is_known(self, damaged: Damage) -> None:
        number = 0 if damaged.file.startswith("trial_00000") else 2
        trial = damaged.study / f"trial_0000{number}"
        said = said_by(train, "--trial", str(trial), "--dry-run", "--device", "cpu")
        lost = damaged.file in ("study.yaml", f"{trial.name}/trial.json")
        assert said.code == (2 if lost else 0), said
        if lost:
            assert ("study.yaml" in said.err) or "holds no trial (trial.json: " in said.err

    @pytest.mark.parametrize(
        "file",
        [
            *("study.yaml", "environment.json", "images.json", "trial_00000/trial.json", "trial_00000/epochs.jsonl"),
            "trial_00000/encoder.safetensors",
        ],
    )
    def test_a_damaged_run_is_mended_by_resume(
        self, file: str, kind: str, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = Path(shutil.copytree(trained_run, tmp_path / "runs" / "cf-amc-ssl"))
        rows = (folder / "trial_00000" / "epochs.jsonl").read_bytes()
        trained = []

        def run_recorded(_: object, trial: TrialFolder, *__: object, **___: object) -> Iterator[Row]:
            record = trial.read()
            if record is None or not record.ended:
                trained.append(trial.number)
                trial.open({})
                trial.epochs_file.write_bytes(rows)
            yield {}

        monkeypatch.setattr("cfamc_ray.training.recording.run_recorded", run_recorded)
        DAMAGES[kind](folder / file)
        words = ("--set", "encoder.width=8")
        first, resumed = train_into(folder.parent, *words), train_into(folder.parent, *words, "--resume")
        matters = file in ("study.yaml", "trial_00000/trial.json", "trial_00000/epochs.jsonl")
        assert (first.code, resumed.code) == (2 if matters else 0, 0), (first, resumed)
        if matters and (kind != "missing" or not file.endswith("epochs.jsonl")):
            assert str(folder / file) in first.err
        assert trained == ([0] if file.endswith("epochs.jsonl") else [])
        (record,) = read_trials(folder)
        assert record.status == "finished"
        assert (folder / f"{file}.damaged").exists() is (matters and kind != "missing")


@pytest.mark.parametrize(
    "state",
    [
        {"version": 9},
        [1, 2],
        {"rows": 3},
        {"rows": [{"epoch": 1}]},
        {"encoder": {}},
        {"encoder": 3},
        {"optimizer": []},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"scheduler": 3},
        {"delta": torch.zeros(3)},
        {"delta": None},
        *("empty", "truncated", "zeros", "random"),
    ],
    ids=str,
)
def test_a_trial_whose_checkpoint_is_damaged_begins_anew(
    state: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = tiny_study().trial, TrialFolder(tmp_path, 0)
    splits = load_splits(config.data)
    folder.open({})
    Trial(config, splits).save(folder.checkpoint)
    if isinstance(state, str):
        DAMAGES[state](folder.checkpoint)
    elif isinstance(state, dict) and "version" not in state:
        torch.save(torch.load(folder.checkpoint, weights_only=True) | state, folder.checkpoint)
    else:
        torch.save(state, folder.checkpoint)
    bad = folder.checkpoint.read_bytes()
    with RecordedTrial(folder, config, splits, point={}) as recorded:
        assert (recorded.trial.epoch, recorded.trial.rows) == (0, [])
    assert "checkpoint.pt cannot be read" in capsys.readouterr().out
    assert folder.checkpoint.with_name("checkpoint.pt.damaged").read_bytes() == bad
    assert not folder.checkpoint.exists()


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scaling run, which tests copy."""
    out = tmp_path_factory.mktemp("scale")
    (out / "grown.yaml").write_text(dump_study(SCALING))
    for cell in SCALING.cells:
        (out / "grown" / "system").mkdir(parents=True, exist_ok=True)
        CellFolder(out / "grown" / "system").write(cell, found_of(cell))
    write_trials(SCALING.learning_study, out / "grown" / "learning", trials=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cfamc_ray.report.page.write_report", lambda *_, **__: Path("report"))
        patch.setattr("cfamc_ray.figures.scaling.scaling_charts", lambda _: [])
        patch.setattr("cfamc_ray.scaling.study.fit_learning", lambda *_: [])
        assert said_by(scale, "--space", str(out / "grown.yaml"), "--out", str(out)).code == 0
    return out


class TestScale:
    @pytest.fixture
    def done(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What Ray would have measured and trained."""
        names: list[str] = []

        def run_cells(config: ScalingConfig, folder: CellFolder, **_: Any) -> None:
            missing = [cell for cell in config.cells if not folder.measured(cell)]
            for cell in missing:
                folder.write(cell, found_of(cell))
            names.extend(cell.name for cell in missing)

        def run_study(config: StudyConfig, folder: Path, **_: Any) -> StopReason | None:
            orchestration._repair(config, folder)
            names.extend(record.trial_id for record in read_trials(folder) if not record.ended)
            write_trials(config, folder, trials=12)
            return StopReason("trials", "budget.trials reached")

        monkeypatch.setitem(sys.modules, "cfamc_ray.orchestration.cells", SimpleNamespace(run_cells=run_cells))
        monkeypatch.setattr(orchestration, "run_study", run_study)
        monkeypatch.setattr("cfamc_ray.report.page.write_report", lambda *_, **__: Path("report"))
        monkeypatch.setattr("cfamc_ray.figures.scaling.scaling_charts", lambda _: [])
        monkeypatch.setattr("cfamc_ray.scaling.study.fit_learning", lambda *_: [])  # takes seconds
        return names

    CELL = f"system/{SCALING.cells[-1].name}.json"

    @pytest.mark.parametrize(
        ("file", "again"),
        [
            *(("scaling.yaml", []), ("fits.json", []), ("system.csv", []), ("learning.csv", [])),
            (CELL, [SCALING.cells[-1].name]),
            ("learning/study.yaml", []),
            ("learning/trial_00003/epochs.jsonl", ["trial_00003"]),
        ],
    )
    def test_what_is_damaged_is_measured_or_trained_again(
        self, file: str, again: list[str], kind: str, grown: Path, tmp_path: Path, done: list[str]
    ) -> None:
        out = Path(shutil.copytree(grown, tmp_path / "runs"))
        path = out / "grown" / file
        before = files(out / "grown" / "learning")
        DAMAGES[kind](path)
        said = said_by(analyse_scaling, str(out / "grown"))
        assert said.code == (2 if file == "scaling.yaml" else 0)
        if again and kind != "missing":
            assert f"warning: {path}: damaged or missing (" in said.err
        words = ["--space", str(out / "grown.yaml"), "--out", str(out)]
        said = said_by(scale, *words)
        assert (said.code, done) == (0, again)
        kept = path.with_name(f"{path.name}.damaged")
        assert kept.exists() is ((bool(again) or file == "learning/study.yaml") and kind != "missing")
        after = files(out / "grown" / "learning")
        same = [name for name in before if name.startswith("trial_") and name not in file]
        assert {name: after[name] for name in same} == {name: before[name] for name in same}
        done.clear()
        assert (said_by(scale, *words).code, done) == (0, [])

    def test_damaged_fits_are_no_costs(self, kind: str, grown: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(grown / "grown", tmp_path / "grown"))
        DAMAGES[kind](folder / "fits.json")
        said = said_by(tune, "--space", "quickstart.yaml", "--dry-run", "--costs", str(folder))
        assert said == (
            2,
            "",
            f"--costs {folder}: no fits of a scaling study's system part can be read there\n",
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"device": 3},
            {"seconds_per": None},
            {"seconds_per": {"flop": "much"}},
            {"seconds_per": {"parsec": 1.0}},
            {"bytes_per": [1]},
            {"threads": "many"},
        ],
        ids=str,
    )
    def test_fits_of_another_shape_are_no_costs(self, change: dict[str, Any], grown: Path, tmp_path: Path) -> None:
        fits = json.loads((grown / "grown" / "fits.json").read_text())
        fits["costs"][0] |= change
        (tmp_path / "fits.json").write_text(json.dumps(fits))
        said = said_by(tune, "--space", "quickstart.yaml", "--dry-run", "--costs", str(tmp_path / "fits.json"))
        assert (said.code, said.out) == (2, "")
        assert "no fits of a scaling study's system part can be read there" in said.err


class TestConfirmation:
    @pytest.fixture
    def study(self, whole: Path, tmp_path: Path) -> tuple[StudyConfig, Path]:
        """A study whose confirmation has trained all and tested the first trial."""
        config = STUDY.model_copy(
            update={"confirm": StudyConfig.model_validate({"name": "c", "confirm": {"seeds": 1}}).confirm}
        )
        folder = Path(shutil.copytree(whole, tmp_path / "small"))
        fresh = confirming_study(config, read_trials(folder), [])
        assert fresh is not None
        inner = folder / "confirm"
        inner.mkdir()
        write_config(inner, fresh)
        for number, point in enumerate(SearchSpace(fresh).first_points):
            trial = TrialFolder(inner, number)
            trial.open(point)
            trial.write_rows(rows_of(number, done=True))
            shutil.copy(folder / "trial_00000" / "encoder.safetensors", trial.encoder)
        reconcile(open_study(fresh, open_storage(inner)), fresh, read_trials(inner))
        TrialFolder(inner, 0).add_test(PointTest(None, {}, {"none": 0.5, "autoattack": 0.1}))
        return config, folder

    @pytest.fixture
    def tested(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        numbers: list[int] = []

        def test(fresh: object, folder: object, untested: Mapping[int, object], *_: object) -> None:
            numbers.extend(untested)

        monkeypatch.setattr(confirmation, "_test", test)
        return numbers

    @pytest.mark.parametrize(
        ("file", "trained_again", "tested_again"),
        [
            ("trial_00000/encoder.safetensors", [], [1]),
            ("trial_00001/encoder.safetensors", [1], [1]),
            ("trial_00001/epochs.jsonl", [1], [1]),
            ("trial_00000/test.json", [], [0, 1]),
            ("trial_00001/trial.json", [], [1]),
            ("study.yaml", [], [1]),
            ("optuna.db", [], [1]),
        ],
    )
    def test_what_an_untested_trial_lacks_is_trained_again(
        self,
        file: str,
        trained_again: list[int],
        tested_again: list[int],
        kind: str,
        study: tuple[StudyConfig, Path],
        trained: list[int],
        tested: list[int],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        config, folder = study
        inner = folder / "confirm"
        before = [record.point for record in read_trials(inner)]
        DAMAGES[kind](inner / file)
        assert confirmation.run_confirmation(config, folder)
        if kind == "other" and file.endswith("encoder.safetensors"):
            assert f"{inner / file}: damaged" in caplog.text
        assert trained == trained_again
        assert tested == tested_again
        records = read_trials(inner)
        assert [record.point for record in records] == before
        assert [record.status for record in records] == ["finished"] * len(before)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_real_study_is_finished_again_after_damage_and_nothing_else_is_trained(tmp_path: Path) -> None:
    space = tmp_path / "small.yaml"
    quick = {
        "trial": {
            **STUDY.model_dump(mode="json")["trial"],
            "evaluation": {"attack": {"steps": 2}, "attacked_images": 20},
        }
    }
    space.write_text(dump_yaml({**STUDY.model_dump(mode="json"), **quick, "budget": {"trials": 3}}))
    code, output = Command(space).wait(seconds=500)
    assert code == 0, output
    study = tmp_path / "runs" / "small"
    before = files(study)
    damaged = ["trial_00000/trial.json", "trial_00001/epochs.jsonl", "optuna.db"]
    for file in damaged:
        DAMAGES["zeros"](study / file)
    bad = files(study)

    code, refused = Command(space).wait(seconds=500)
    assert code == 2
    assert f"(damaged or missing: {study / damaged[0]}, {study / damaged[1]}); re-run with --resume" in refused
    code, output = Command(space, "--resume").wait(seconds=500)
    assert code == 0, output
    after = files(study)
    assert [record.status for record in read_trials(study)] == ["finished"] * 3
    for file in damaged:
        assert f"{study / file}: " in output
        assert after[f"{file}.damaged"] == bad[file]
    assert json.loads(after[damaged[0]]) == json.loads(before[damaged[0]])
    kept = [name for name in before if name.startswith(("trial_00000/", "trial_00002/")) and name not in damaged]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    scores = [[json.loads(line)["loss"] for line in tree[damaged[1]].splitlines()] for tree in (before, after)]
    assert scores[0] == scores[1], "the same point, seed and threads train the same"
    stored = optuna.load_study(study_name="small", storage=open_storage(study)).trials
    assert [trial.state.name for trial in stored] == ["COMPLETE"] * 3
