"""What the README shows a person works as it stands."""

import re
from pathlib import Path

import pytest

from cfamc_ray.space.reading import read_study

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_space_file_that_the_docs_show_is_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "space_files.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "shown.yaml"
    path.write_text(shown, encoding="utf-8")
    assert set(read_study(path).space) == {
        *("crops.views", "pretraining.replays", "perturbation.epsilon", "pretraining.epochs")
    }


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_the_commands_it_shows_are_targets_of_the_makefile(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)h][^)#]*)", README))))
def test_its_links_lead_to_files(link: str) -> None:
    assert (ROOT / link).is_file()


def test_its_tree_names_every_part_of_the_package() -> None:
    parts = {path.name for path in (ROOT / "cfamc_ray").iterdir() if not path.name.startswith("_")} - {"py.typed"}
    assert [part for part in sorted(parts) if part not in README] == []
