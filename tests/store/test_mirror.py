"""A copy of a study folder: kept up to date, gone on from, never at the cost of what it holds."""

import shutil
import time
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

import pytest

from cfamc_ray.config.errors import InputError
from cfamc_ray.host.files import replacing
from cfamc_ray.store import mirror
from cfamc_ray.store.mirror import Mirror, mirrored


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "here" / "made"
    (folder / "trial_00000").mkdir(parents=True)
    (folder / "study.yaml").write_text("name: made")
    (folder / "trial_00000" / "trial.json").write_text("{}")
    (folder / "trial_00000" / "checkpoint.pt").write_text("weights")
    return folder


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


def test_what_changes_is_copied_and_what_goes_is_removed(study: Path, uri: str, tmp_path: Path) -> None:
    copy = tmp_path / "store" / "made"
    kept = Mirror(study, uri)
    assert kept.send() == 3
    assert contents(copy) == contents(study)
    assert kept.send() == 0
    (study / "trial_00000" / "checkpoint.pt").unlink()
    (study / "trial_00000" / "epochs.jsonl").write_text("1\n")
    assert kept.send() == 1
    assert contents(copy) == contents(study)


def test_half_written_files_and_the_sampler_s_storage_are_left_out(study: Path, uri: str, tmp_path: Path) -> None:
    for name in (
        "optuna.db",
        "optuna.db-journal",
        "mlflow.db",
        "driver.lock",
        "tuner.pkl",
        "epochs.jsonl.partial",
        "front.png.partial",
    ):
        (study / name).write_text("x")
    Mirror(study, uri).send()
    assert not {path.name for path in (tmp_path / "store" / "made").glob("*")} - {"study.yaml", "trial_00000"}


def test_another_machine_begins_from_the_copy(study: Path, uri: str, tmp_path: Path) -> None:
    with mirrored(study, uri):
        (study / "front.csv").write_text("trial_id")
    there = tmp_path / "there" / "made"
    with mirrored(there, uri):
        assert contents(there) == contents(study)
        (there / "trial_00000" / "checkpoint.pt").unlink()
    assert contents(tmp_path / "store" / "made") == contents(there)


def test_it_is_copied_meanwhile(study: Path, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "SECONDS", 0.01)
    with mirrored(study, uri):
        for _ in range(500):
            if contents(tmp_path / "store" / "made") == contents(study):
                break
            time.sleep(0.01)
        assert contents(tmp_path / "store" / "made") == contents(study)


def test_a_copy_of_more_is_not_overwritten(study: Path, uri: str, tmp_path: Path) -> None:
    Mirror(study, uri).send()
    other = tmp_path / "other" / "made"
    other.mkdir(parents=True)
    (other / "study.yaml").write_text("name: made")
    with pytest.raises(InputError, match=r"holds trial_00000, which .* lacks: name an empty folder"):
        Mirror(other, uri)
    assert contents(tmp_path / "store" / "made") == contents(study)


@pytest.mark.parametrize("bad", ["nonsense", "ftp://nowhere/x", "file:relative", "file:///a b", "file:///{a}", "", "/"])
def test_what_is_no_store_is_refused(study: Path, bad: str) -> None:
    with pytest.raises(InputError, match="no object store can be reached there"):
        Mirror(study, bad)


@pytest.mark.parametrize("name", ["a%20b", "a b", "50%", "a?b", "a#b", "{a}", "[a]*", "é日", "'a\"", "-a", "a:b", "~"])
def test_a_path_is_taken_as_it_is_and_what_a_uri_quotes_as_what_it_stands_for(
    study: Path, tmp_path: Path, name: str
) -> None:
    for number, uri in enumerate((f"{tmp_path}/0/{name}", f"file://{tmp_path}/1/{quote(name)}")):
        Mirror(study, uri).send()
        assert [path.name for path in (tmp_path / str(number)).iterdir()] == [name]
        assert contents(tmp_path / str(number) / name / "made") == contents(study)


@pytest.mark.parametrize("uri", ["file:///x/a?b", "file:///x/a#b", "s3://bucket/a#b", "gs://bucket/a%20b#c"])
def test_a_uri_whose_path_would_be_cut_is_refused(study: Path, uri: str) -> None:
    with pytest.raises(InputError) as refused:
        Mirror(study, uri)
    assert str(refused.value).startswith(f"--mirror {uri}: the path of a URI ends before ? and #: write %3F and %23")


def test_a_last_copy_that_fails_is_said_and_costs_nothing(
    study: Path, uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with mirrored(study, uri):
        (tmp_path / "store").mkdir(exist_ok=True)
        (tmp_path / "store" / "made").write_text("in the way")
    assert "the last copy failed" in caplog.text
    assert (study / "study.yaml").exists()


def test_a_folder_that_vanished_costs_the_copy_nothing(study: Path, uri: str, tmp_path: Path) -> None:
    kept = Mirror(study, uri)
    kept.send()
    before = contents(tmp_path / "store" / "made")
    shutil.rmtree(study)
    with pytest.raises(FileNotFoundError, match="its files are gone"):
        kept.send()
    assert contents(tmp_path / "store" / "made") == before


@pytest.mark.parametrize("fetched", range(4))
def test_an_interrupted_download_costs_the_copy_nothing(
    study: Path, uri: str, tmp_path: Path, fetched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study / "trial_00000" / "epochs.jsonl").write_text("1\n")
    Mirror(study, uri).send()
    before, there, left = contents(tmp_path / "store" / "made"), tmp_path / "there" / "made", iter(range(fetched))

    def download(path: Path) -> AbstractContextManager[Path]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return replacing(path)

    monkeypatch.setattr(mirror, "replacing", download)
    with pytest.raises(KeyboardInterrupt), mirrored(there, uri):
        pytest.fail("it began with a part of the copy")
    monkeypatch.undo()
    if fetched:
        with pytest.raises(InputError, match=r"trial_00000, which .* lacks"):
            Mirror(there, uri)
    assert contents(tmp_path / "store" / "made") == before
