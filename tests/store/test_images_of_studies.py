"""Which images a study is about, wherever they and it lie."""

import shutil
from pathlib import Path

import pytest

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.space.reading import read_study
from cfamc_ray.store.images import (
    check_same,
    found_from,
    located,
    note,
    paths_of,
    portable,
    same_images,
)
from cfamc_ray.store.layout import IMAGES
from cfamc_ray.store.records import read_config, write_config


def study(path: Path | str | None, *, transfer: Path | str | None = None) -> StudyConfig:
    data = {"name": "cifar10"} if path is None else {"name": "npz", "path": str(path)}
    evaluation = {} if transfer is None else {"transfer": {"name": "npz", "path": str(transfer)}}
    return StudyConfig.model_validate({"name": "made", "trial": {"data": data, "evaluation": evaluation}})


def path_of(config: StudyConfig) -> str | None:
    return config.trial.data.location


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with images, and with the folder of a study."""
    folder = tmp_path / "project"
    (folder / "runs" / "made").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "data" / "images.npz").write_text("mine")
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("CFAMC_DATA", raising=False)


class TestPaths:
    def test_every_key_that_holds_one_is_known(self) -> None:
        found = paths_of(study("a.npz", transfer="/b.npz"))
        assert found == {"data.path": Path("a.npz"), "evaluation.transfer.path": Path("/b.npz")}
        assert paths_of(study(None)) == {}

    def test_they_are_no_part_of_what_a_study_and_its_trials_are(self) -> None:
        here, there = study("a.npz", transfer="b.npz"), study("/there/c.npz", transfer="/there/d.npz")
        assert here.identity() == there.identity()
        assert here.trial.fingerprint == there.trial.fingerprint
        others = [
            study("a.npz"),
            study(None),
            study("a.npz", transfer="b.npz").model_copy(update={"variant": "published"}),
        ]
        assert all(here.identity() != other.identity() for other in others)
        assert len({config.trial.fingerprint for config in (here, *others[:2])}) == 3


class TestFoundFrom:
    def test_a_relative_path_is_looked_up_in_the_working_directory_and_then_beside_the_space(
        self, project: Path, tmp_path: Path
    ) -> None:
        config = study("data/images.npz")
        assert path_of(found_from(config, project)) == str(project / "data" / "images.npz")
        (tmp_path / "elsewhere" / "data").mkdir()
        (tmp_path / "elsewhere" / "data" / "images.npz").write_text("another")
        assert path_of(found_from(config, project)) == str(tmp_path / "elsewhere" / "data" / "images.npz")

    @pytest.mark.parametrize("path", ["nowhere.npz", "/no/where.npz", None])
    def test_what_is_in_neither_stays_as_it_was_written(self, project: Path, path: str | None) -> None:
        assert found_from(study(path), project) == study(path)

    def test_a_home_is_meant_by_a_tilde(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(project))
        assert path_of(found_from(study("~/data/images.npz"), Path())) == str(project / "data" / "images.npz")


class TestPortable:
    def test_a_path_near_the_study_becomes_relative_to_it_and_is_found_again_from_a_new_place(
        self, project: Path, tmp_path: Path
    ) -> None:
        config = study(project / "data" / "images.npz", transfer=project / "data" / "images.npz")
        kept = portable(config, project / "runs" / "made")
        assert set(paths_of(kept).values()) == {Path("../../data/images.npz")}
        assert located(kept, project / "runs" / "made") == config
        moved = project.rename(tmp_path / "moved")
        found = located(kept, moved / "runs" / "made")
        assert set(paths_of(found).values()) == {moved / "data" / "images.npz"}

    def test_one_that_shares_no_folder_with_it_or_was_not_found_stays(self, project: Path) -> None:
        for path in ("/no/where.npz", "cifar10.npz", None):
            assert portable(study(path), project / "runs" / "made") == study(path)
            assert located(study(path), project / "runs" / "made") == study(path)

    def test_the_study_may_lie_behind_a_link_and_be_named_from_the_working_directory(
        self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "link").symlink_to(project / "runs")
        monkeypatch.chdir(tmp_path)
        config, folder = study(project / "data" / "images.npz"), Path("link") / "made"
        write_config(folder, config)
        assert path_of(read_study(project / "runs" / "made" / "study.yaml")) == "../../data/images.npz"
        assert read_config(folder) == config
        assert read_config(project / "runs" / "made") == config

    def test_images_that_stayed_where_they_lay_are_found_there(self, project: Path, tmp_path: Path) -> None:
        config, folder = study(project / "data" / "images.npz"), project / "runs" / "made"
        write_config(folder, config)
        note(folder, {"data": "1234"}, config=config)
        copy = Path(shutil.copytree(folder, tmp_path / "far" / "away" / "made"))
        assert read_config(copy) == config

    def test_images_in_the_folder_of_data_sets_are_found_there(
        self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, folder = study(project / "data" / "images.npz"), project / "runs" / "made"
        write_config(folder, config)
        (project / "data").rename(tmp_path / "sets")
        monkeypatch.setenv("CFAMC_DATA", str(tmp_path / "sets"))
        assert path_of(read_config(folder)) == str(tmp_path / "sets" / "images.npz")

    def test_where_they_are_nowhere_the_place_is_named_where_they_are_expected(
        self, project: Path, tmp_path: Path
    ) -> None:
        folder = project / "runs" / "made"
        write_config(folder, study(project / "data" / "images.npz"))
        (project / "data" / "images.npz").unlink()
        moved = project.rename(tmp_path / "moved")
        assert path_of(read_config(moved / "runs" / "made")) == str(moved / "data" / "images.npz")


class TestSame:
    def test_a_study_goes_on_with_the_images_it_began_with_and_with_no_others(self, project: Path) -> None:
        folder, config = project / "runs" / "made", study("a.npz", transfer="b.npz")
        check_same(folder, {"data": "1", "evaluation.transfer": "2"}, config=config)  # it has not begun
        note(folder, {"data": "1", "evaluation.transfer": "2"}, config=config)
        check_same(folder, {"data": "1", "evaluation.transfer": "2"}, config=config)
        for digests, place in (
            ({"data": "3"}, "data a.npz"),
            ({"evaluation.transfer": "1"}, "evaluation.transfer b.npz"),
        ):
            key = place.split()[0]
            with pytest.raises(InputError) as refused:
                check_same(folder, digests, config=config)
            assert str(refused.value) == (
                f"{place}: holds other images than those that {folder} began with: name the same ones with "
                f"--set {key}.path=PATH, or another study with --set name=NAME"
            )

    def test_one_without_a_path_is_named_by_its_name(self, project: Path) -> None:
        note(project, {"data": "1"}, config=study(None))
        with pytest.raises(InputError, match=r"^data cifar10: holds other images"):
            check_same(project, {"data": "2"}, config=study(None))

    @pytest.mark.parametrize("damaged", ["", "[]", '{"data"', "\0\0", '{"data": "1234"}'])
    def test_a_damaged_note_counts_as_none_and_is_made_anew(self, project: Path, damaged: str) -> None:
        (project / IMAGES).write_text(damaged)
        check_same(project, {"data": "1"}, config=study("a.npz"))
        note(project, {"data": "1"}, config=study("a.npz"))
        with pytest.raises(InputError):
            check_same(project, {"data": "2"}, config=study("a.npz"))

    def test_the_note_follows_the_images_to_a_new_place_and_is_written_only_then(self, project: Path) -> None:
        note(project, {"data": "1"}, config=study("/a.npz"))
        written = (project / IMAGES).stat()
        note(project, {"data": "1"}, config=study("/a.npz"))
        assert (project / IMAGES).stat().st_ino == written.st_ino, "a renamed file would have another one"
        note(project, {"data": "1"}, config=study("/b.npz"))
        assert '"path": "/b.npz"' in (project / IMAGES).read_text()

    def test_two_studies_are_about_the_same_images_as_far_as_both_say(self, tmp_path: Path) -> None:
        folders = [tmp_path / name for name in ("one", "other", "silent")]
        for folder in folders:
            folder.mkdir()
        one, other, silent = folders
        note(one, {"data": "1", "evaluation.transfer": "2"}, config=study("a.npz", transfer="b.npz"))
        note(other, {"data": "1"}, config=study("c.npz"))
        assert same_images(one, other)
        assert same_images(one, silent)
        note(other, {"data": "3"}, config=study("c.npz"))
        assert not same_images(one, other)
