"""The space files that come with the project."""

from itertools import takewhile
from pathlib import Path

import pytest

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import PACKAGE, dump_study, find_space, read_study

FOLDER = PACKAGE.parent / "search_spaces"
SPACES = sorted(path.name for path in FOLDER.glob("*.yaml"))


def test_there_are_spaces() -> None:
    assert {"quickstart.yaml", "pareto.yaml"} <= set(SPACES)


@pytest.mark.parametrize("name", SPACES)
def test_the_header_opens_with_question_hardware_time_and_result(name: str) -> None:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    header = list(takewhile(lambda line: line.startswith("#"), lines))
    words = [line.split()[1] for line in header if not line.startswith("#   ")]
    assert words == ["Question", "Hardware", "Takes", "Expected"]
    assert all(len(line.split()) > 3 for line in header)


@pytest.mark.parametrize("name", SPACES)
def test_a_space_survives_being_written_and_read(name: str, tmp_path: Path) -> None:
    config = read_study(FOLDER / name)
    (tmp_path / name).write_text(dump_study(config), encoding="utf-8")
    assert read_study(tmp_path / name) == config


@pytest.mark.parametrize("name", SPACES)
def test_a_space_asks_its_question_under_its_own_name(name: str) -> None:
    config = read_study(FOLDER / name)
    assert name == f"{config.name}.yaml"
    assert config.question.endswith("?")
    assert config.space


@pytest.mark.parametrize("name", SPACES)
def test_a_bare_name_is_found_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_space(name).samefile(FOLDER / name)


def test_a_path_and_the_working_directory_s_own_spaces_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "search_spaces" / "pareto.yaml"
    own.parent.mkdir()
    own.write_text("name: own")
    assert find_space("pareto.yaml").samefile(own)
    (tmp_path / "pareto.yaml").write_text("name: nearest")
    assert find_space("pareto.yaml").samefile(tmp_path / "pareto.yaml")
    assert find_space(str(own)) == own


@pytest.mark.parametrize("name", ["nothing", "nothing.yaml", "search_spaces", ".", ""])
def test_what_is_no_file_is_refused_with_the_spaces_at_hand(name: str) -> None:
    with pytest.raises(InputError) as caught:
        find_space(name)
    assert str(caught.value).startswith(f"{name}: no such file")
    assert ", ".join(SPACES) in str(caught.value)
