"""What the pages in docs show a person works as it stands."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch

from cfamc_ray.config.reading import read_study
from cfamc_ray.data.splits import load_splits, load_test
from cfamc_ray.tune import main as tune

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))
COMMANDS = sorted(
    {
        line.split("  #")[0]
        for page in [*PAGES, DOCS.parent / "README.md"]
        for line in re.findall(r"^\.venv/bin/python -m .*", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_own_images_as_the_page_makes_them_are_read_by_the_space_that_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,), (space,) = blocks("own_data.md", "python"), blocks("own_data.md", "yaml")
    exec(code, {})  # noqa: S102 (our own page)
    Path("mine.yaml").write_text(space, encoding="utf-8")
    data = read_study(Path("mine.yaml")).trial.data
    splits = load_splits(data)
    assert splits.pretrain.batch(torch.tensor([0])).shape == (1, 3, 32, 32)
    assert (len(splits.pretrain), len(splits.probe), len(splits.validation), splits.classes) == (1000, 400, 300, 10)
    assert len(load_test(data)) == 297
    assert tune(["--space", "mine.yaml", "--dry-run"]) == 0
    assert "8 trials of" in capsys.readouterr().out


def test_there_are_commands_to_type() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood_as_it_is_written(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, module, *words = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    trains = module in ("cfamc_ray.tune", "cfamc_ray.scale") or "--recipe" in words
    code = import_module(module).main([*words, "--dry-run"] if trains else words)  # ends the process where it is not
    missing = capsys.readouterr().err
    assert code == (0 if trains else 2)
    assert ("runs/" in missing) is not trains, "only the study that it is about is not here"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#h][^)#]*)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).is_file()] == []
