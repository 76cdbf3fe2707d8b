"""Files and folders of any name: what a path holds means nothing in a URI, in YAML, to a shell or to a parser."""

import os
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from processes import Command
from test_moved_studies import SPACE, write_npz
from test_train_command import Said, said_by

from cfamc_ray import tune
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.yaml12 import dump_yaml
from cfamc_ray.evaluate import main as evaluate
from cfamc_ray.space.reading import read_study
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.records import TrialFolder, read_trials, write_config
from cfamc_ray.store.stop_reason import StopReason
from cfamc_ray.train import main as train

NASTY = "100% %20 ?#{a} 'b' \"c\" [d] é日 &;$HOME\\ ~ #x: y"
LONG = "y" * 300
NAMES = pytest.mark.parametrize("name", [NASTY, "-x"], ids=["nasty", "dash"])
QUICK = ["images=10", "attacked_images=10", "attack.steps=1", "attack.restarts=1", "epsilons=[1/255]"]
QUICK += ["autoattack_images=0", "autoattack_epsilons=[]"]
PROTOCOL = [word for key in QUICK for word in ("--set", key)]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CFAMC_DATA", str(tmp_path / "cache"))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[StudyConfig]:
    """The studies that were run: in place of Ray, a trial is written by hand; the first run is interrupted then."""
    studies: list[StudyConfig] = []

    def run_study(config: StudyConfig, folder: Path, **_: Any) -> StopReason | None:
        studies.append(config)
        write_config(folder, config)
        trial = TrialFolder(folder, len(read_trials(folder)))
        trial.open(next(SearchSpace(config).points()))
        scores = {"clean_accuracy": 0.5, "robust_accuracy": 0.25, "crop_passes": 40}
        trial.write_rows([{"epoch": 1, "done": True, **scores}])
        return StopReason("trials", "budget.trials reached") if len(studies) > 1 else None

    monkeypatch.setitem(sys.modules, "cfamc_ray.orchestration.run", SimpleNamespace(run_study=run_study))
    monkeypatch.setattr("cfamc_ray.report.page.write_report", lambda folder, **_: folder / "report")
    return studies


def write_space(folder: Path, *, images: str = "images.npz") -> None:
    folder.mkdir(exist_ok=True)
    write_npz(folder / "images.npz", seed=0)
    data = {**SPACE["trial"]["data"], "name": "npz", "path": images}
    (folder / "space.yaml").write_text(dump_yaml({**SPACE, "trial": {**SPACE["trial"], "data": data}}))


def assert_one_line(said: Said, *parts: str) -> None:
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert all(part in said.err for part in parts), said.err


@NAMES
def test_a_study_and_all_that_it_needs_may_lie_in_a_folder_of_any_name(
    name: str, begun: list[StudyConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_space(tmp_path / name)
    images, copy = tmp_path / name / "images.npz", tmp_path / name / "copy"
    own = (f"--space={name}/space.yaml", f"--out={name}/runs", "--trials", "2", "--set", f"data.path={name}/images.npz")
    said = said_by(tune.main, *own, "--mirror", str(copy))
    assert (said.code, said.err) == (130, "")
    said = said_by(tune.main, *shlex.split(said.out.splitlines()[-1])[3:])
    assert (said.code, said.err) == (0, "")
    assert [config.trial.data.location for config in begun] == [str(images)] * 2
    assert read_study(tmp_path / name / "runs" / "mine" / "study.yaml").trial.data.location == "../../images.npz"
    assert len(read_trials(copy / "mine")) == 2

    mirrors = {"named": str(copy), "in a URI": f"file://{quote(str(copy))}"}
    for place, mirror in mirrors.items():
        said = said_by(tune.main, *own[:1], "--out", place, *own[2:], "--mirror", mirror)
        assert (said.code, said.err, len(begun)) == (0, "", 2)
        assert read_trials(tmp_path / place / "mine") == read_trials(copy / "mine")

    earlier = f"--warm-start={name}/runs/mine"
    said = said_by(tune.main, *own, "--set", "name=next", earlier)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"2 trials warm-started from {name}/runs/mine\n")
    assert_one_line(said_by(tune.main, *own, f"--costs={name}/runs/mine"), f"--costs {name}/runs/mine: no fits")
    assert_one_line(said_by(tune.main, *own, f"--costs={name}/nothing.json"), f"--costs {name}/nothing.json: no fits")

    monkeypatch.setenv("CFAMC_DATA", str(tmp_path / name))
    said = said_by(tune.main, *own[:1], "--out", "third", "--set", "data.path=images.npz", "--trials", "1")
    assert (said.code, said.err, len(begun)) == (0, "", 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "in a URI", "named", "third"])


@NAMES
def test_so_may_a_trial_that_is_trained_anew_its_encoder_and_other_images_that_it_is_evaluated_on(
    name: str, begun: list[StudyConfig], tmp_path: Path
) -> None:
    write_space(tmp_path / name)
    assert said_by(tune.main, f"--space={name}/space.yaml", f"--out={name}/runs", "--trials", "1").code == 130
    words = (f"--trial={name}/runs/mine/trial_00000", f"--out={name}/trained", "--set", "resources.cpus_per_worker=1")
    said = said_by(train, *words)
    assert (said.code, said.err) == (0, "")
    run = f"{name}/trained/mine-trial_00000"
    typed = shlex.split(next(line for line in said.out.splitlines() if line.startswith("Evaluate")))
    assert typed[-1] == str(tmp_path / run)
    said = said_by(evaluate, *PROTOCOL, "--", run)
    assert (said.code, said.err) == (0, "")
    assert len(list((tmp_path / run / "trial_00000" / "evaluations").iterdir())) == 1
    transfer = (f"--transfer=npz:{name}/images.npz", f"--out={name}/record.json")
    said = said_by(evaluate, *PROTOCOL, *transfer, "--", run)
    assert (said.code, said.err) == (0, "")
    assert (tmp_path / name / "record.json").is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["--space", LONG],
        ["--space", f"{LONG}/space.yaml"],
        ["--out", LONG],
        ["--warm-start", LONG],
        ["--costs", LONG],
        ["--mirror", f"/{LONG}"],
        ["--mirror", f"file:///{LONG}"],
        ["--set", f"data.path={LONG}"],
        ["--set", f"name={LONG}"],
    ],
    ids=lambda words: f"{words[0]} {words[1][:8]}",
)
def test_a_name_that_is_too_long_is_refused_in_one_line(
    words: list[str], begun: list[StudyConfig], tmp_path: Path
) -> None:
    write_space(tmp_path / "plain")
    said = said_by(tune.main, *(["--space", "plain/space.yaml"] if words[0] != "--space" else []), *words)
    assert_one_line(said, LONG[:150])
    assert begun == []


def test_so_it_is_by_the_other_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_one_line(said_by(train, "--trial", f"{LONG}/trial_00000"), LONG, "name a shorter one")
    assert_one_line(said_by(evaluate, LONG), LONG, "name a shorter one")
    own = ("cf-amc-ssl", "--untrained", "--transfer")
    assert_one_line(said_by(evaluate, *own, f"npz:{LONG}"), LONG, "name a shorter one")
    assert_one_line(said_by(evaluate, *own, f"imagefolder:{LONG}"), LONG, "name a shorter one")
    monkeypatch.setenv("CFAMC_DATA", LONG)
    assert_one_line(said_by(evaluate, *own, "npz:images.npz"), LONG, "name a shorter one")


class TestNoText:
    """A file system takes any bytes for a name; study.yaml and Ray take text in UTF-8."""

    name = os.fsdecode(b"a\xffb")

    def test_a_folder_of_studies_is_refused(
        self, begun: list[StudyConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_space(tmp_path / "plain")
        with pytest.raises(SystemExit) as caught:
            tune.main(["--space", "plain/space.yaml", "--out", self.name])
        assert caught.value.code == 2
        assert "its name is not valid UTF-8; name another folder" in capsys.readouterr().err

    def test_so_are_images(self, begun: list[StudyConfig], tmp_path: Path) -> None:
        write_space(tmp_path / self.name)
        write_space(tmp_path / "plain", images="nowhere.npz")
        said = said_by(tune.main, "--space", "plain/space.yaml", "--set", f"data.path={self.name}/images.npz")
        assert_one_line(said, "data.path ", "its name is not valid UTF-8; rename it, or name a link to it")
        (tmp_path / "link").symlink_to(tmp_path / self.name)
        said = said_by(tune.main, "--space", f"{self.name}/space.yaml")
        assert_one_line(said, "data.path ", "its name is not valid UTF-8")
        assert begun == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_real_study_runs_in_such_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / NASTY
    monkeypatch.setenv("CFAMC_DATA", str(place / "cache"))
    write_space(place)
    code, output = Command(place / "space.yaml", "--trials", "2", "--mirror", str(place / "copy")).wait()
    assert code == 0, output
    records = read_trials(place / "runs" / "mine")
    assert [record.status for record in records] == ["finished"] * 2
    assert read_trials(place / "copy" / "mine") == records
    assert {path.name for path in place.iterdir()} <= {"space.yaml", "images.npz", "runs", "copy", "cache"}
    assert [path.name for path in tmp_path.iterdir()] == [NASTY]
