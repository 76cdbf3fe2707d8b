"""The command that searches a space, up to where Ray starts, and what it prints."""

import csv
import io
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from made_by_hand import curve, study

from cfamc_ray.config.reading import dump_study
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.yaml12 import parse_yaml
from cfamc_ray.front.confirmation import confirm
from cfamc_ray.front.front import find_front
from cfamc_ray.front.progress import Progress
from cfamc_ray.orchestration.view import StudyView
from cfamc_ray.space.reading import read_study
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.lock import only_driver
from cfamc_ray.store.records import TrialFolder, read_trials, write_config
from cfamc_ray.store.stop_reason import StopReason
from cfamc_ray.tune import _print_confirmations, _print_front, main

DIGITS = {"name": "digits", "pretrain_images": 100, "probe_images": 100, "validation_images": 50}
SMALL = StudyConfig.model_validate(
    {
        "name": "small",
        "question": "Is it worth it?",
        "budget": {"trials": 4},
        "trial": {
            "data": DIGITS,
            "encoder": {"width": 4, "prefeature_width": 4, "hidden_width": 4, "embedding_width": 4},
            "pretraining": {"batch_images": 10},
        },
        "space": {"crops.views": {"int": [2, 40]}, "perturbation.epsilon": {"float": ["1/255", "16/255"]}},
    }
)
RAN: list[tuple[float | None, float | None, Status]] = [
    (0.5, 0.5, "finished"),
    (0.9, 0.1, "finished"),
    (0.4, 0.4, "finished"),
    (0.3, None, "failed"),
]


QUICK = pytest.mark.usefixtures("nothing_is_drawn", "few_points_are_checked")


class Said(NamedTuple):
    """What the command ended with."""

    code: int
    out: str
    err: str


Tune = Callable[..., Said]


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(dump_study(SMALL), encoding="utf-8")
    return path


@pytest.fixture
def tune(space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tune:
    """The command on the small space, with tmp_path/runs to put studies in."""
    monkeypatch.setenv("COLUMNS", "120")

    def type_in(*words: str, space: Path | str = space, out: Path = tmp_path / "runs") -> Said:
        code = main(["--space", str(space), "--out", str(out), *words])
        return Said(code, *capsys.readouterr())

    return type_in


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[StudyConfig]:
    """The studies that would have been run: in place of Ray, what a trial left behind is written by hand."""
    studies: list[StudyConfig] = []

    def run_study(
        config: StudyConfig, folder: Path, *, address: str | None, detail: str, costs: object
    ) -> StopReason | None:
        studies.append(config)
        make_study(folder, trials=config.budget.trials)
        alike = "the last 3 trials failed alike (out of memory): fix the cause"
        return {None: StopReason("trials", "budget.trials reached"), "broken": StopReason("failed_alike", alike)}.get(
            address
        )

    monkeypatch.setitem(sys.modules, "cfamc_ray.orchestration.run", SimpleNamespace(run_study=run_study))
    return studies


def make_study(folder: Path, *, trials: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, SMALL)
    for number, (clean, robust, status) in enumerate(RAN[:trials]):
        trial = TrialFolder(folder, number)
        trial.open({"crops.views": number + 2, "perturbation.epsilon": 8 / 255})
        scores = {"clean_accuracy": clean, "robust_accuracy": robust, "crop_passes": 10 * (number + 1)}
        costs = {"train_seconds": 60.0, "eval_seconds": 5.0}
        trial.write_rows([{"epoch": 1, "done": status == "finished", **scores, **costs}])
        if status == "finished":
            trial.encoder.write_bytes(b"weights")
        else:
            trial.close(status, "the loss is not finite")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    make_study(tmp_path / "runs" / "small", trials=4)
    return tmp_path / "runs" / "small"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestDryRun:
    def test_it_prints_the_study_so_that_it_reads_back_and_its_cost(self, tune: Tune, tmp_path: Path) -> None:
        said = tune("--dry-run", "--set", "crops.views=6", "--trials", "9")
        assert said.code == 0
        (tmp_path / "printed.yaml").write_text(said.out, encoding="utf-8")
        config = read_study(tmp_path / "printed.yaml")
        assert (config.budget.trials, config.trial.crops.views, list(config.space)) == (9, 6, ["perturbation.epsilon"])
        passes = config.trial.crop_passes
        trials, evaluation = said.out.splitlines()[-2:]
        assert trials.startswith(f"# 9 trials of {passes:.3g} to {passes:.3g} crop passes; about ")
        assert evaluation.startswith("# evaluation: up to ")

    def test_it_creates_nothing(self, tune: Tune, tmp_path: Path) -> None:
        before = files(tmp_path)
        assert tune("--dry-run").code == 0
        assert files(tmp_path) == before
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize("name", ["quickstart.yaml", "cifar_small.yaml"])
    def test_it_needs_no_data_and_finds_a_given_space_by_its_bare_name(self, tune: Tune, name: str) -> None:
        said = tune("--dry-run", space=name)
        assert said.code == 0
        assert parse_yaml(said.out)["name"] == Path(name).stem


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "named"),
        [
            (["--set", "budgt.trials=3"], "--set budgt.trials=3: there is no key 'budgt'; did you mean budget?"),
            (["--set", "crops.veiws=3"], "unknown key trial.crops.veiws; did you mean views?"),
            (["--set", "crops.views"], "--set crops.views: write key=value"),
            (["--trials", "0"], "budget.trials: input should be greater than or equal to 1 (it is 0)"),
            (["--resume"], "there is nothing to resume; leave out --resume to begin"),
            (["--set", "data.pretrain_images=99999"], "need 100049 training images, but digits has"),
        ],
        ids=str,
    )
    def test_it_is_refused_in_one_line_with_exit_code_2(
        self, tune: Tune, tmp_path: Path, words: list[str], named: str, begun: list[StudyConfig]
    ) -> None:
        said = tune(*words)
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert named in said.err
        assert begun == []
        assert not (tmp_path / "runs").exists()

    def test_a_missing_space_is_refused_with_those_at_hand(self, tune: Tune) -> None:
        said = tune(space="nothing.yaml")
        assert (said.code, said.err.count("\n")) == (2, 1)
        assert said.err.startswith("nothing.yaml: no such file, and no space of this name. Spaces at hand: ")
        assert "quickstart.yaml" in said.err

    @pytest.mark.parametrize("words", [[], ["--trials", "many"], ["--sapce", "x"]])
    def test_what_the_parser_refuses_ends_with_2_too(
        self, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        assert "usage: python -m cfamc_ray.tune" in capsys.readouterr().err

    @pytest.mark.parametrize("place", ["runs", "runs/small"])
    def test_a_file_where_the_folder_should_be_is_refused(
        self, tune: Tune, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("mine")
        said = tune()
        assert (said.code, said.err.count("\n")) == (2, 1)
        assert said.err.startswith(f"{tmp_path / 'runs' / 'small'}: cannot be written (")
        assert "name another folder with --out" in said.err
        assert (tmp_path / place).read_text() == "mine"

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            (None, "data.path images.npz: no such file"),
            (b"no archive", "not an .npz file"),
            ({"x_train": np.zeros((9, 4, 4, 3), np.uint8)}, "lacks y_train, x_test, y_test"),
        ],
        ids=["missing", "not an archive", "incomplete"],
    )
    def test_bad_images_are_refused_before_ray_starts(
        self,
        tune: Tune,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        begun: list[StudyConfig],
        content: bytes | dict[str, np.ndarray] | None,
        named: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("CFAMC_DATA", str(tmp_path / "data"))
        if isinstance(content, bytes):
            Path("images.npz").write_bytes(content)
        elif content is not None:
            np.savez("images.npz", **content)  # type: ignore[arg-type]
        said = tune("--set", "data.name=npz", "--set", "data.path=images.npz")
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert named in said.err
        assert begun == []

    def test_a_process_of_its_own_shows_no_traceback(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "cfamc_ray.tune", "--space", "nonexistent.yaml"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("nonexistent.yaml: no such file")
        assert "Traceback" not in done.stderr


@QUICK
class TestMirror:
    def test_a_study_is_found_again_on_another_machine(
        self, tune: Tune, finished: Path, begun: list[StudyConfig], tmp_path: Path
    ) -> None:
        mirror = ("--mirror", f"file://{tmp_path}/store")
        assert tune(*mirror).code == 0
        elsewhere = tune(*mirror, out=tmp_path / "elsewhere")
        assert elsewhere.code == 0
        assert begun == []
        assert files(tmp_path / "elsewhere" / "small").keys() >= {"front.csv", "trial_00003/trial.json"}
        unfinished = tune(*mirror, "--trials", "6", out=tmp_path / "third")
        assert unfinished.code == 2
        assert "4 of 6 trials ended" in unfinished.err

    def test_a_copy_of_another_study_is_refused(self, tune: Tune, finished: Path, tmp_path: Path) -> None:
        mirror = ("--mirror", f"file://{tmp_path}/store")
        assert tune(*mirror).code == 0
        make_study(tmp_path / "other" / "small", trials=2)
        said = tune(*mirror, out=tmp_path / "other")
        assert (said.code, said.err.count("\n")) == (2, 1)
        assert "the copy holds" in said.err

    def test_a_bucket_is_no_folder(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as refused:
            main(["--space", "quickstart.yaml", "--out", "s3://bucket/studies"])
        assert refused.value.code == 2
        assert (
            "a study needs a folder that all its machines mount; --mirror keeps a copy in a bucket"
            in capsys.readouterr().err
        )


@QUICK
class TestBegunStudy:
    def test_an_unfinished_study_is_not_touched_without_resume(
        self, tune: Tune, finished: Path, begun: list[StudyConfig]
    ) -> None:
        before = files(finished)
        said = tune("--trials", "5")
        assert (said.code, said.out) == (2, "")
        assert said.err == (
            f"{finished}: holds this study with 4 of 5 trials ended; "
            "re-run with --resume to resume it, or name another folder with --out\n"
        )
        assert begun == []
        assert files(finished) == before

    def test_a_trial_that_runs_has_not_ended(self, tune: Tune, finished: Path) -> None:
        (finished / "trial_00003" / "outcome.json").unlink()
        assert "3 of 4 trials ended" in tune().err

    @pytest.mark.parametrize(
        ("override", "different"),
        [
            ("crops.views=3", "trial.crops.views, space"),
            ("search.sampler=random", "search.sampler"),
            ("objectives={clean_accuracy: maximize}", "objectives.robust_accuracy"),
            ("space.crops.views={int: [2, 41]}", "space"),
            ("constraints=[crops.views > 2]", "constraints"),
            ("perturbation.step_ratio=1/2", "trial.perturbation.step_ratio"),
        ],
    )
    @pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["", "resume"])
    def test_a_study_of_another_space_is_refused_with_the_keys_that_differ(
        self, tune: Tune, finished: Path, override: str, different: str, resume: list[str]
    ) -> None:
        before = files(finished)
        said = tune("--set", override, *resume)
        named = ", ".join(sorted(different.split(", ")))
        assert said.code == 2
        assert said.err == (
            f"{finished}: belongs to a study of another space (different: {named}); "
            "name another folder with --out, or another study with --set name=NAME\n"
        )
        assert files(finished) == before


@QUICK
@pytest.mark.parametrize(("words", "said_on_the_way"), [([], True), (["--quiet"], False), (["--verbose"], True)])
def test_quiet_says_only_the_result(
    tune: Tune, begun: list[StudyConfig], words: list[str], said_on_the_way: bool
) -> None:
    said = tune(*words)
    assert (said.code, len(begun)) == (0, 1)
    assert ("Ray is starting" in said.out) is said_on_the_way
    assert "2 of 3 finished trials are on the front of small" in said.out
    assert "The study is over: budget.trials reached" in said.out


class TestFinishedStudy:
    @QUICK
    @pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["", "resume"])
    def test_its_front_is_printed_again(
        self, tune: Tune, finished: Path, resume: list[str], begun: list[StudyConfig]
    ) -> None:
        said = tune(*resume)
        assert (said.code, said.err) == (0, "")
        assert "2 of 3 finished trials are on the front of small" in said.out
        assert "trial_00003 failed: the loss is not finite" in said.out
        lines = [line.split() for line in said.out.splitlines()]
        assert ["1", "90.0%", "10.0%", "20", "1", "min", "05", "s", "3", "8/255"] in lines
        assert ["0", "50.0%", "50.0%", "10", "1", "min", "05", "s", "2", "8/255"] in lines
        assert str(finished / "report" / "report.html") in said.out
        assert begun == []

    def test_tables_and_figure_are_derived(self, tune: Tune, finished: Path) -> None:
        tune()
        tables = {
            name: list(csv.DictReader(io.StringIO((finished / name).read_text())))
            for name in ("trials.csv", "front.csv")
        }
        assert [row["trial_id"] for row in tables["trials.csv"]] == [f"trial_0000{n}" for n in range(4)]
        assert [row["status"] for row in tables["trials.csv"]] == ["finished"] * 3 + ["failed"]
        assert [row["trial_id"] for row in tables["front.csv"]] == ["trial_00001", "trial_00000"]
        assert [row.keys() for row in tables["front.csv"]] == [row.keys() for row in tables["trials.csv"][:2]]
        assert tables["trials.csv"][3]["robust_accuracy"] == ""
        assert (finished / "report" / "front.png").read_bytes().startswith(b"\x89PNG")

    @QUICK
    def test_of_the_trials_only_encoders_of_dominated_ones_go(self, tune: Tune, finished: Path) -> None:
        before = files(finished)
        tune()
        gone = before.keys() - files(finished).keys()
        assert gone == {"trial_00002/encoder.safetensors"}
        assert {name: before[name] for name in before.keys() - gone}.items() <= files(finished).items()

    @QUICK
    def test_the_encoder_of_a_finished_trial_that_misses_an_objective_goes_too(
        self, tune: Tune, finished: Path
    ) -> None:
        TrialFolder(finished, 2).write_rows([{"epoch": 1, "done": True, "clean_accuracy": 0.5, "crop_passes": 10}])
        tune()
        assert not TrialFolder(finished, 2).encoder.exists()

    @QUICK
    def test_all_encoders_stay_where_that_is_asked_for(self, tune: Tune, finished: Path) -> None:
        before = files(finished)
        assert tune("--set", "keep_encoders=all").code == 0
        assert before.items() <= files(finished).items()

    def test_typing_the_command_again_changes_nothing_more(self, tune: Tune, finished: Path) -> None:
        first, before = tune(), files(finished)
        assert tune() == first
        assert files(finished) == before

    @pytest.fixture
    def without_front(self, finished: Path) -> Path:
        for record in read_trials(finished):
            TrialFolder(finished, record.number).close("failed", "exceeded its time")
        return finished

    def test_without_a_finished_trial_there_is_no_front_and_the_exit_code_is_1(
        self, tune: Tune, without_front: Path
    ) -> None:
        said = tune()
        assert said.code == 1
        assert "0 of 0 finished trials are on the front of small" in said.out
        assert said.out.count("failed: exceeded its time") == 4
        assert (without_front / "report" / "front.png").exists()

    @QUICK
    def test_an_empty_front_has_the_columns_of_all_trials(self, tune: Tune, without_front: Path) -> None:
        tune()
        trials, front = ((without_front / name).read_text().splitlines() for name in ("trials.csv", "front.csv"))
        assert front == trials[:1]


@QUICK
class TestRun:
    def test_a_run_is_told_what_was_typed_and_ends_with_its_front(
        self, tune: Tune, begun: list[StudyConfig], tmp_path: Path
    ) -> None:
        said = tune("--trials", "2", "--set", "crops.views=6")
        assert (said.code, said.err) == (0, "")
        (config,) = begun
        assert (config.budget.trials, config.trial.crops.views) == (2, 6)
        assert said.out.startswith(f"small: 2 trials, 1 at once → {tmp_path / 'runs' / 'small'}\n")
        assert "2 of 2 finished trials are on the front of small" in said.out
        assert said.out.endswith("\nThe study is over: budget.trials reached\n")

    def test_a_study_that_ended_for_its_failures_ends_with_1_despite_its_front(
        self, tune: Tune, begun: list[StudyConfig]
    ) -> None:
        said = tune("--address", "broken")
        assert (said.code, len(begun)) == (1, 1)
        assert "finished trials are on the front of small" in said.out
        assert "The study is over: the last 3 trials failed alike (out of memory)" in said.out

    @pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["", "resume"])
    def test_a_folder_that_another_process_holds_is_refused(
        self, tune: Tune, tmp_path: Path, begun: list[StudyConfig], resume: list[str]
    ) -> None:
        folder = tmp_path / "runs" / "small"
        if resume:
            make_study(folder, trials=2)
        with only_driver(folder):
            before = files(folder)
            said = tune(*resume)
            assert files(folder) == before
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert f"{folder}: another process is at work on it (process {os.getpid()} on " in said.err
        assert begun == []

    def test_trials_of_earlier_studies_are_taken_over_and_named_again_on_resume(
        self, tune: Tune, begun: list[StudyConfig], tmp_path: Path
    ) -> None:
        sources = [str(tmp_path / name) for name in ("earlier", "other")]
        for source, trials in zip(sources, (3, 1), strict=True):
            make_study(Path(source), trials=trials)
            write_config(Path(source), SMALL.model_copy(update={"name": Path(source).name}))
        imports = [word for source in sources for word in ("--warm-start", source)]
        said = tune("--address", "auto", "--set", "budget.trials=1", *imports)
        assert said.out.startswith(
            f"3 trials warm-started from {sources[0]}\n1 trials warm-started from {sources[1]}\nsmall: 1 trials"
        )
        assert len(begun) == 1
        assert [word for word in shlex.split(said.out.splitlines()[-1]) if word in imports] == imports

    def test_a_cheaper_study_runs_first_in_the_study_s_folder(
        self, tune: Tune, begun: list[StudyConfig], tmp_path: Path
    ) -> None:
        proxy = "search.proxy=[data.pretrain_images=50, budget.trials=3]"
        said = tune("--set", proxy, "--set", "confirm.seeds=2", "--set", "confirm=null")
        assert (said.code, said.err) == (0, "")
        first, second = begun
        assert (first.name, first.budget.trials, first.trial.data.pretrain_images) == ("proxy", 3, 50)
        assert (second.name, second.budget.trials, second.trial.data.pretrain_images) == ("small", 4, 100)
        folder = tmp_path / "runs" / "small"
        assert said.out.startswith(
            "A cheaper study runs first: data.pretrain_images=50, budget.trials=3\nproxy: 3 trials"
        )
        assert (folder / "prior" / "proxy" / "report" / "report.html").exists()
        (row, *_) = csv.DictReader(io.StringIO((folder / "prior.csv").read_text()))
        assert (row["study"], row["trials"], row["compared"]) == ("proxy", "3", "3")
        assert "What earlier studies knew" in (folder / "report" / "report.html").read_text()

    def test_the_plan_tells_the_cost_of_both(self, tune: Tune, begun: list[StudyConfig]) -> None:
        said = tune("--dry-run", "--set", "search.proxy=[data.pretrain_images=50, budget.trials=3]")
        plans = [line for line in said.out.splitlines() if line.startswith(("# 3 trials", "# 4 trials"))]
        assert len(plans) == 2
        assert begun == []

    @pytest.mark.parametrize(
        ("override", "why"),
        [
            (
                "search.proxy=[data.pretrain=50]",
                "search.proxy: proxy with --set data.pretrain=50: unknown key trial.data.p",
            ),
            ("search.proxy=[crops.views=1]", "crops.views: input should be greater than or equal to 2 (it is 1)"),
            ("search.proxy=['objectives={flops: minimize}']", "search.proxy: cannot change the objectives"),
            (
                "search={sampler: tpe, proxy: [encoder.width=4]}",
                "search: proxy: sampler tpe cannot use it; choose front",
            ),
            ("search.prior=[nowhere]", "nowhere: holds no study"),
        ],
    )
    def test_earlier_studies_that_cannot_be_are_refused_and_nothing_is_written(
        self, tune: Tune, begun: list[StudyConfig], tmp_path: Path, override: str, why: str
    ) -> None:
        said = tune("--set", override)
        assert (said.code, begun) == (2, [])
        assert why in said.err
        assert not (tmp_path / "runs" / "small").exists()

    def test_an_earlier_study_that_says_nothing_of_the_space_is_refused(
        self, tune: Tune, begun: list[StudyConfig], tmp_path: Path
    ) -> None:
        make_study(tmp_path / "earlier", trials=3)
        said = tune(
            "--set", f"search.prior=[{tmp_path / 'earlier'}]", "--set", "objectives={peak_memory_bytes: minimize}"
        )
        assert (said.code, begun) == (2, [])
        assert "earlier: no finished trial has all of peak_memory_bytes and values of crops.views" in said.err

    def test_an_interrupted_run_says_how_to_go_on_and_ends_with_130(
        self, tune: Tune, begun: list[StudyConfig], space: Path, tmp_path: Path
    ) -> None:
        said = tune("--address", "auto", "--trials", "3", "--set", "question=Why, oh why?")
        assert said.code == 130
        assert len(begun) == 1
        python, *words = shlex.split(said.out.splitlines()[-1])
        assert Path(python).name == "python"
        assert Path(python).exists()
        expected = ["-m", "cfamc_ray.tune", "--space", str(space), "--out", str(tmp_path / "runs"), "--resume"]
        assert words == [*expected, "--trials", "3", "--address", "auto", "--set", "question=Why, oh why?"]

    @pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["before it began", "before it went on"])
    def test_so_does_one_that_was_interrupted_before_ray_started(
        self, tune: Tune, begun: list[StudyConfig], resume: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        if resume:
            tune("--trials", "3")
        monkeypatch.setattr("cfamc_ray.lifecycle.search.check_data", interrupted)
        said = tune("--trials", "4", *resume)
        assert (said.code, said.err) == (130, "")
        *_, line, command = said.out.splitlines()
        assert line == "Interrupted; nothing is lost. Resume with"
        assert shlex.split(command)[5:] == ["--out", str(tmp_path / "runs"), *resume, "--trials", "4"]


def progress(*, finished: int, running: int = 0, failed: int = 0) -> Progress:
    best = {"clean_accuracy": 0.5, "robust_accuracy": math.nan}
    others = {"stopped": 1, "failed": failed} if failed else {}
    return Progress(
        12, finished + sum(others.values()), finished, running, others, best, "2 points", 0.125, 65.0, math.nan
    )


def test_elsewhere_than_on_a_terminal_there_is_one_plain_line_per_ended_trial() -> None:
    stream = io.StringIO()
    with StudyView(SMALL, stream) as view:
        for running in (0, 1, 2):
            view.show(progress(finished=0, running=running), [])
        view.show(progress(finished=1, running=1), [])
        view.show(progress(finished=1, running=1, failed=1), [])
        view.show(progress(finished=1, running=2, failed=1), [])
    lines = stream.getvalue().splitlines()
    assert [line.split(";")[0] for line in lines] == [
        "0 of 12 trials done, 0 running",
        "1 of 12 trials done, 1 running",
        "1 of 12 trials done, 1 running, 1 stopped, 1 failed",
    ]
    assert lines[0].endswith(
        "; best clean accuracy 50.0%, best robust accuracy –; front of 2 points, hypervolume 0.125; "
        "1 min 05 s, about ? left"
    )
    assert "\x1b" not in stream.getvalue()


def test_the_printed_front_has_a_row_for_each_operating_point(capsys: pytest.CaptureFixture[str]) -> None:
    config, trial = study(), curve(7, (0.01, 0.6, 0.1), (0.1, 0.5, 0.3))
    _print_front(config, find_front(config, [trial]), [trial])
    said = capsys.readouterr().out
    assert "2 operating points of 1 of the 1 finished trials are on the front of made" in said
    lines = [line.split() for line in said.splitlines()]
    assert ["7", "60.0%", "10.0%", "100", "3", "s", "0.01", "9", "8/255"] in lines
    assert ["7", "50.0%", "30.0%", "100", "3", "s", "0.1", "9", "8/255"] in lines


def test_the_printed_confirmation_names_the_strength_of_each_candidate(capsys: pytest.CaptureFixture[str]) -> None:
    config = study()
    points = curve(7, (0.01, 0.6, 0.1), (0.1, 0.5, 0.3)).each_point(config.objectives)
    _print_confirmations(config, confirm(config.objectives, [*points, curve(8, (0.01, 0.6, 0.1))], {}))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in lines if line[:1] in (["7"], ["8"])] == [
        ["7", "0.01", "0"],
        ["7", "0.1", "0"],
        ["8", "–", "0"],
    ]
