"""Real studies by the real command, with Ray: to the end, interrupted, killed, and with trials that fail."""

import csv
import json
import signal
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen
from wsgiref.simple_server import make_server

import optuna
import optuna_dashboard
import pytest
import tensorboard.program  # type: ignore[import-untyped]
import torch
from processes import Command, wait_until

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.yaml12 import dump_yaml
from cfamc_ray.data.splits import load_splits
from cfamc_ray.method.encoder import load_encoder
from cfamc_ray.orchestration.watch import check_reachable
from cfamc_ray.search.storage import open_storage
from cfamc_ray.space.reading import read_study
from cfamc_ray.store.records import TrialFolder, TrialRecord, read_trials
from cfamc_ray.training.trial import Trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SPACE = {
    "name": "tiny",
    "budget": {"trials": 4},
    "resources": {"trials_at_once": 2, "cpus_per_worker": 1},
    "search": {"sampler": "random", "seed": 3},
    "keep_encoders": "all",
    "trial": {
        "data": {
            "name": "digits",
            "image_size": 16,
            "pretrain_images": 100,
            "probe_images": 60,
            "validation_images": 40,
        },
        "crops": {"size": 16},
        "encoder": {"width": 4, "prefeature_width": 16, "hidden_width": 16, "embedding_width": 8, "norm": "group"},
        "pretraining": {"batch_images": 20, "epochs": 3, "precision": "float32"},
        "evaluation": {"attack": {"steps": 2}, "attacked_images": 20},
    },
    "space": {"crops.views": {"int": [2, 4]}, "perturbation.epsilon": {"float": [0.01, 0.1]}},
}


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_yaml(SPACE))
    return path


def run(space: Path, *options: str) -> tuple[int, str]:
    return Command(space, *options).wait()


def finished(records: list[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if record.status == "finished"]


def assert_trained_as_if_alone(study: Path, record: TrialRecord) -> None:
    """The encoder has the weights of a trial that nothing interrupted and no other trial helped."""
    config = read_study(study / "study.yaml").trial_at(record.point)
    alone = Trial(config, load_splits(config.data))
    list(alone)
    saved = load_encoder(study / record.trial_id / "encoder.safetensors").state_dict()
    for name, weight in alone.trainer.encoder.state_dict().items():
        assert torch.equal(weight, saved[name]), name


@pytest.mark.long
def test_a_study_runs_to_its_front_and_can_be_extended(space: Path) -> None:
    code, output = run(space)
    study = space.parent / "runs" / "tiny"
    assert code == 0, output
    assert "on the front of tiny" in output
    assert "Traceback" not in output
    records = read_trials(study)
    assert [record.status for record in records] == ["finished"] * 4
    assert all((study / record.trial_id / "encoder.safetensors").exists() for record in records)
    assert all(list((study / record.trial_id).glob("events.out.tfevents.*")) for record in records)
    assert not list(study.glob("trial_*/checkpoint.pt"))
    assert not list(study.glob("trial_*/error.txt"))
    assert (study / "report" / "front.png").stat().st_size > 10_000
    assert (study / "front.csv").read_text().startswith("trial_id,status,reason,epochs,clean_accuracy,robust_accuracy")
    assert json.loads((study / "environment.json").read_text())["versions"]["ray"]

    code, again = run(space)
    assert code == 0
    assert "on the front of tiny" in again
    code, refused = run(space, "--trials", "5")
    assert code == 2
    assert "--resume" in refused
    code, output = run(space, "--trials", "5", "--resume")
    assert code == 0, output
    extended = read_trials(study)
    assert len(extended) == 5
    assert extended[:4] == records


@pytest.mark.long
def test_a_killed_study_goes_on_where_it_was(space: Path) -> None:
    study = space.parent / "runs" / "tiny"
    command = Command(space)
    wait_until(lambda: bool(finished(read_trials(study))) and any(study.glob("trial_*/checkpoint.pt")))
    command.kill()
    command.process.wait(timeout=120)
    before = read_trials(study)
    assert len(finished(before)) < 4, "killed too late to say anything"

    code, output = run(space, "--resume")
    assert code == 0, output
    after = read_trials(study)
    assert [record.status for record in after] == ["finished"] * 4
    kept = {record.number: record for record in after}
    for record in finished(before):
        assert kept[record.number] == record, "a finished trial was trained again"
    stored = optuna.load_study(study_name="tiny", storage=open_storage(study))
    assert [trial.state.name for trial in stored.trials] == ["COMPLETE"] * 4
    assert stored.trials[0].values == after[0].values(["clean_accuracy", "robust_accuracy"])

    # Whether resumed or not, a trial ends as one that was never interrupted.
    for record in after[:2]:
        assert_trained_as_if_alone(study, record)


@pytest.mark.long
def test_a_killed_study_with_forks_goes_on_and_a_fork_is_what_it_would_be_alone(space: Path) -> None:
    study = space.parent / "runs" / "tiny"
    search = "search={startup_trials: 2, fork: {at: [0.5], change: [perturbation.epsilon]}}"
    keys = ("trial.pretraining.epochs=4", "budget.trials=8", "resources.trials_at_once=1", search)
    options = [option for key in keys for option in ("--set", key)]
    command = Command(space, *options)
    wait_until(lambda: any(record.trunk for record in read_trials(study)))
    command.kill()
    command.process.wait(timeout=120)
    before = read_trials(study)
    code, output = run(space, "--resume", *options)
    assert code == 0, output
    after = read_trials(study)
    assert [record.status for record in after] == ["finished"] * 8
    assert [record.point for record in after[: len(before)]] == [record.point for record in before]
    forks = [record for record in after if record.trunk]
    for fork in forks[:2]:
        assert_trained_as_if_alone(study, fork)
        assert fork.paid("crop_passes") == fork.value("crop_passes") / 2
    answer = (study / "report" / "report.html").read_text()
    assert f"{len(forks)} trials are forks" in answer
    stored = optuna.load_study(study_name="tiny", storage=open_storage(study))
    assert stored.trials[forks[0].number].user_attrs["trunk.epochs"] == 2


@pytest.mark.long
def test_a_study_killed_in_its_cheaper_study_goes_on_there_and_learns_from_it(space: Path) -> None:
    search = ("--set", "search={seed: 3, startup_trials: 3, proxy: [data.pretrain_images=60, budget.trials=3]}")
    folder = space.parent / "runs" / "tiny"
    proxy = folder / "prior" / "proxy"
    command = Command(space, *search, "--trials", "2")
    wait_until(lambda: any(record.rows for record in read_trials(proxy)))
    command.kill()
    command.process.wait(timeout=120)
    before = read_trials(proxy)
    assert not read_trials(folder)
    code, out = run(space, *search, "--trials", "2", "--resume")
    assert code == 0, out
    after = read_trials(proxy)
    assert [record.status for record in after] == ["finished"] * 3
    for earlier, later in zip(before, after, strict=False):
        assert later.point == earlier.point
        assert all(row["loss"] == again["loss"] for row, again in zip(earlier.rows, later.rows, strict=False))
    assert [record.status for record in read_trials(folder)] == ["finished"] * 2
    assert "What earlier studies knew" not in (folder / "report" / "report.html").read_text()  # two trials are too few
    code, out = run(space, *search, "--trials", "3", "--resume")
    assert code == 0, out
    assert "A cheaper study" not in out
    assert (
        (folder / "prior.csv").read_text().startswith("study,trials,objective,compared,tau\nproxy,3,clean_accuracy,3,")
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("workers", "names"),
    [
        # A process has no name for the moment in which Ray changes it.
        (1, ("ray::OneWorkerTrial", "ray::ResourceTrainable")),
        (2, ("ray::RayTrainWorker",)),
        (2, ("ray::TrainController",)),
        (2, ("ray::ImplicitFunc",)),
    ],
    ids=["trial", "worker of two", "controller of two", "trial of two"],
)
def test_a_killed_process_is_started_again_and_the_trial_goes_on(
    space: Path, workers: int, names: tuple[str, ...]
) -> None:
    study, epochs = space.parent / "runs" / "tiny", 30 // workers
    resources = f"resources={{trials_at_once: 1, cpus_per_worker: 1, workers_per_trial: {workers}}}"
    command = Command(space, "--trials", "1", "--set", f"pretraining.epochs={epochs}", "--set", resources)
    wait_until(lambda: any(study.glob("trial_*/checkpoint.pt")))
    wait_until(lambda: sum(command.kill(name) for name in names) > 0)
    (before,) = read_trials(study)
    code, output = command.wait(seconds=400)
    assert code == 0, output
    (after,) = read_trials(study)
    assert 1 <= len(before.rows) < len(after.rows) == epochs
    assert after.rows[0]["train_seconds"] == before.rows[0]["train_seconds"], "the first epoch was trained again"


@pytest.mark.long
def test_optuna_dashboard_and_tensorboard_show_a_study_while_it_runs(space: Path) -> None:
    command = Command(space, "--set", "pretraining.epochs=200")
    study = space.parent / "runs" / "tiny"
    wait_until(lambda: any(study.glob("trial_*/checkpoint.pt")))
    summary, detail = told_by_optuna_dashboard(study)
    tags, groups = told_by_tensorboard(study)
    assert command.running()
    command.kill()
    command.wait()

    assert (summary["study_name"], summary["directions"]) == ("tiny", ["maximize", "maximize"])
    assert detail["objective_names"] == ["clean_accuracy", "robust_accuracy"]
    assert "Running" in [trial["state"] for trial in detail["trials"]]
    names = {parameter["name"] for trial in detail["trials"] for parameter in trial["params"]}
    assert names == {"crops.views", "perturbation.epsilon"}

    assert {"accuracy/clean", "accuracy/robust", "loss/total", "cost/crop passes"} <= tags["scalars"][
        "trial_00000"
    ].keys()
    assert "study/hypervolume" in tags["scalars"]["."]
    assert {"crops/plain", "crops/perturbed"} <= tags["images"]["trial_00000"].keys()
    assert "study/front" in tags["images"]["."]
    first = next(group for group in groups if group["sessions"][0]["name"] == "trial_00000")
    assert first["hparams"].keys() == {"crops.views", "perturbation.epsilon"}
    values = {value["name"]["tag"]: value["value"] for value in first["metricValues"]}
    assert 0 <= values["accuracy/clean"] <= 1
    assert values["cost/crop passes"] > 0


def told_by_optuna_dashboard(study: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its summary of the study, and its details."""
    app = optuna_dashboard.wsgi(f"sqlite:///{study / 'optuna.db'}")
    with make_server("127.0.0.1", 0, app) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        api = f"http://127.0.0.1:{server.server_port}/api/studies"
        with urlopen(api) as answer:
            (summary,) = json.load(answer)["study_summaries"]
        with urlopen(f"{api}/{summary['study_id']}") as answer:  # noqa: S310
            detail = json.load(answer)
        server.shutdown()
    return summary, detail


def told_by_tensorboard(study: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Its tags by plugin and run, and its session groups, once it has read the first trial's first epoch."""
    server = tensorboard.program.TensorBoard()
    server.configure(argv=["", "--logdir", str(study), "--port", "0", "--reload_interval", "1"])
    plugins = f"{server.launch()}data/plugin"

    def ask(path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{plugins}/{path}", data, {"Content-Type": "application/json"})  # noqa: S310
        with urlopen(request) as answer:  # noqa: S310
            return json.load(answer)

    wait_until(lambda: "trial_00000" in ask("images/tags") and "." in ask("scalars/tags"))
    statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    wanted = {"experimentName": "", "allowedStatuses": statuses, "colParams": [], "startIndex": 0, "sliceSize": 100}
    groups: list[dict[str, Any]] = ask("hparams/session_groups", wanted)["sessionGroups"]
    return {plugin: ask(f"{plugin}/tags") for plugin in ("scalars", "images")}, groups


@pytest.mark.long
def test_a_second_driver_is_refused_while_the_first_one_runs(space: Path) -> None:
    command = Command(space, "--set", "pretraining.epochs=200")
    study = space.parent / "runs" / "tiny"
    wait_until(lambda: any(study.glob("trial_*/trial.json")))
    code, output = run(space, "--set", "pretraining.epochs=200", "--resume")
    command.kill()
    command.wait()
    assert code == 2
    assert f"another process is at work on it (process {command.process.pid} on " in output


@pytest.mark.long
def test_trials_that_fall_behind_are_stopped_and_told_as_pruned(space: Path) -> None:
    mo_asha = "search.mo_asha={rungs: [0.3, 0.6], keep: 0.4}"
    code, output = run(space, "--set", mo_asha, "--set", "search.sampler=front", "--trials", "8")
    study = space.parent / "runs" / "tiny"
    records = read_trials(study)
    stopped = [record for record in records if record.status == "stopped"]
    assert code == 0, output
    assert len(records) == 8
    assert stopped
    assert all("fell behind after" in record.reason and len(record.rows) < 3 for record in stopped)
    assert not list(study.glob("trial_*/checkpoint.pt"))
    stored = optuna.load_study(study_name="tiny", storage=open_storage(study)).trials
    assert {trial.number for trial in stored if trial.state.name == "PRUNED"} == {record.number for record in stopped}
    assert all(trial.values is None for trial in stored if trial.state.name == "PRUNED")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_several_workers_that_fall_behind_stop_together_and_make_room(space: Path) -> None:
    workers = ("--set", "resources={trials_at_once: 1, cpus_per_worker: 1, workers_per_trial: 2}")
    mo_asha = ("--set", "search.mo_asha={rungs: [0.3, 0.6], keep: 0.4}")
    code, output = run(space, *workers, *mo_asha, "--trials", "3")
    study = space.parent / "runs" / "tiny"
    assert code == 0, output
    first, *others = read_trials(study)
    assert first.status == "finished"
    assert "stopped" in [record.status for record in others]
    assert all(record.ended for record in others)
    assert not list(study.glob("trial_*/checkpoint.pt"))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_front_is_confirmed_with_fresh_seeds_on_test_images(space: Path) -> None:
    confirm = ("--set", "confirm={seeds: 2, images: 100, attacked_images: 6, tolerance: 1}")
    command = ("--set", "evaluation.head.l2=[0.01, 1]", *confirm, "--trials", "2")
    code, output = run(space, *command)
    study = space.parent / "runs" / "tiny"
    assert code == 0, output
    fresh = read_trials(study / "confirm")
    with (study / "confirm.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {record.point["seed"] for record in fresh} == {1, 2}
    assert {row["evaluation.head.l2"] for row in table} == {"0.01", "1.0"}
    assert len(fresh) == 2 * len({row["trial_id"] for row in table})
    tests = [TrialFolder(study / "confirm", record.number).read_tests() for record in fresh]
    assert sum(map(len, tests)) == 2 * len(table)
    for row in table:
        here = [
            test[float(row["evaluation.head.l2"])].accuracies
            for test, record in zip(tests, fresh, strict=True)
            if str(record.point["crops.views"]) == row["crops.views"]
        ]
        assert float(row["clean_accuracy_mean"]) == pytest.approx(sum(test["none"] for test in here) / 2)
        assert float(row["autoattack_mean"]) == float(row["robust_accuracy_mean"]) <= float(row["pgd20_mean"])
        assert 0 <= float(row["front_probability"]) <= 1
    assert (study / "attainment.csv").read_text().startswith("attained_by,clean_accuracy,robust_accuracy")
    before = {path: path.stat().st_mtime_ns for path in study.glob("confirm/trial_*/*")}
    code, again = run(space, *command)
    assert code == 0, again
    assert {path: path.stat().st_mtime_ns for path in study.glob("confirm/trial_*/*")} == before
    assert again.splitlines()[-4:] == output.splitlines()[-4:]

    path = TrialFolder(study / "confirm", [len(test) for test in tests].index(2)).test_file
    whole = json.loads(path.read_text())["operating_points"]
    path.write_text(json.dumps({"operating_points": whole[:1]}))
    code, output = run(space, *command)
    assert code == 0, output
    assert output.count("tested trial_") == 1
    assert json.loads(path.read_text())["operating_points"] == whole


@pytest.mark.long
def test_a_cause_that_ends_every_trial_ends_the_study(space: Path) -> None:
    diverging = ("--set", "optimizer.lr=1.0e+30", "--set", "optimizer.trust_coefficient=null")
    code, output = run(space, *diverging, "--trials", "9", "--set", "resources.trials_at_once=1")
    assert code == 1, output
    assert "the last 3 trials failed alike (diverged" in output
    assert len(read_trials(space.parent / "runs" / "tiny")) == 3


@pytest.mark.long
def test_ctrl_c_ends_cleanly_and_says_how_to_resume(space: Path) -> None:
    study = space.parent / "runs" / "tiny"
    command = Command(space, "--set", "pretraining.epochs=40")
    wait_until(lambda: any(study.glob("trial_*/checkpoint.pt")))
    command.process.send_signal(signal.SIGINT)
    code, output = command.wait()
    assert code == 130, output
    assert "--resume" in output
    assert "Traceback" not in output
    stored = optuna.load_study(study_name="tiny", storage=open_storage(study))
    assert "FAIL" not in [trial.state.name for trial in stored.trials], "an interrupted trial did not fail"


@pytest.mark.long
def test_a_trial_that_diverges_fails_alone_with_its_reason(space: Path) -> None:
    rates = "space.optimizer.lr={choice: [0.05, 1.0e+30]}"
    code, output = run(space, "--set", rates, "--set", "optimizer.trust_coefficient=null", "--trials", "6")
    records = read_trials(space.parent / "runs" / "tiny")
    failed = [record for record in records if record.status == "failed"]
    assert code == 0, output
    assert len(records) == 6
    assert {record.point["optimizer.lr"] for record in failed} == {1e30}
    assert {record.point["optimizer.lr"] for record in finished(records)} == {0.05}
    assert all("diverged" in record.reason for record in failed)
    assert "diverged" in (space.parent / "runs" / "tiny" / "trials.csv").read_text()
    stored = optuna.load_study(study_name="tiny", storage=open_storage(space.parent / "runs" / "tiny"))
    assert {trial.state.name for trial in stored.trials if trial.params["optimizer.lr"] == 1e30} == {"FAIL"}


@pytest.mark.long
def test_a_trial_over_its_time_limit_is_stopped_with_its_reason(space: Path) -> None:
    code, output = run(space, "--set", "resources.minutes_per_trial=0.0001", "--trials", "1")
    (record,) = read_trials(space.parent / "runs" / "tiny")
    assert code == 1, output
    assert record.status == "stopped"
    assert "time limit of 0.0001 minutes" in record.reason


@pytest.mark.long
def test_more_workers_than_the_cluster_has_are_refused(space: Path) -> None:
    code, output = run(space, "--set", "resources.workers_per_trial=20", "--set", "resources.cpus_per_worker=50")
    assert code == 2
    assert "workers_per_trial" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "ray://127.0.0.1:10001", "127.0.0.1:99999"])
def test_an_address_where_no_cluster_answers_is_refused_at_once(address: str) -> None:
    with pytest.raises(InputError, match=f"--address {address}: "):
        check_reachable(address)


@pytest.mark.long
def test_two_workers_train_what_one_does(space: Path) -> None:
    exact = ("--trials", "1", "--set", "optimizer.trust_coefficient=null", "--set", "optimizer.lr=0.01")
    precise = ("--set", "pretraining.precision=float64", "--set", "pretraining.epochs=2")
    workers = ("--set", "resources.workers_per_trial=2", "--set", "resources.trials_at_once=1")
    code, output = run(space, *exact, *precise, *workers)
    assert code == 0, output
    study = space.parent / "runs" / "tiny"
    (record,) = read_trials(study)
    config = read_study(study / "study.yaml").trial_at(record.point)
    alone = Trial(config, load_splits(config.data))
    list(alone)
    together = load_encoder(study / record.trial_id / "encoder.safetensors").state_dict()
    for name, weight in alone.trainer.encoder.state_dict().items():
        torch.testing.assert_close(together[name], weight, rtol=1e-9, atol=1e-12)
    assert [row["clean_accuracy"] for row in record.rows] == [row.clean_accuracy for row in alone.rows]
