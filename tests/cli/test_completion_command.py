"""What a shell completes after cfamc."""

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest

from cfamc_ray.cli.completion import FOLDERS, SHELLS, all_verbs, main
from cfamc_ray.cli.main import VERBS
from cfamc_ray.config.recipes import recipe_names

BASH = """
source "$0"
words=$(complete -p cfamc) && words=${words#*-F } && function=${words%% *}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"$function"
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""What bash does at the Tab key: it calls the function that the script has registered."""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell."""
    folder = tmp_path_factory.mktemp("scripts")
    with pytest.MonkeyPatch.context() as patch:
        for shell in SHELLS:
            said: list[str] = []
            patch.setattr("builtins.print", said.append)
            assert main([shell]) == 0
            (folder / shell).write_text("\n".join(said), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with spaces and studies."""
    for folder in ("runs/quickstart/trial_00000", "more"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("my own.yaml", "notes.txt", "runs/notes.txt"):
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)


def completed(scripts: Path, *words: str) -> set[str]:
    """What bash offers for the last word."""
    command = ["bash", "--norc", "-c", BASH, str(scripts / "bash"), "cfamc", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return {*done.stdout.splitlines()} - {""}


def test_verbs_are_completed(scripts: Path) -> None:
    assert completed(scripts, "") == {*VERBS}
    assert completed(scripts, "s") == {"scale", "status", "scaling"}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("tune", "--re"), {"--resume"}),
        (("tune", "--resume", "--tr"), {"--trials"}),
        (("status", "runs/quickstart", "-"), {"-h", "--help", "--watch"}),
        (("train", "--device", ""), {"auto", "cpu", "cuda"}),
        (("evaluate", "runs/mine", "--protocol", "published"), {"published-emp", "published-simclr"}),
        (("train", "--recipe", ""), {*recipe_names()}),
        (("recipes", "simclr-crops-"), {"simclr-crops-free", "simclr-crops-pgd"}),
        (("tune", "--trials", ""), set()),
        (("completion", ""), {*SHELLS}),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_options_and_their_choices_are_completed(words: tuple[str, ...], offered: set[str], scripts: Path) -> None:
    assert completed(scripts, *words) == offered


def test_a_space_is_a_given_one_or_a_file(scripts: Path) -> None:
    offered = completed(scripts, "tune", "--space", "")
    assert {"quickstart.yaml", "paper_table1.yaml", "my own.yaml", "runs", "more"} <= offered
    assert "notes.txt" not in offered
    assert completed(scripts, "scale", "--space", "sc") == {"scaling.yaml"}
    assert completed(scripts, "tune", "--space", "my o") == {"my own.yaml"}


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("export",),
        ("evaluate", "--untrained"),
        ("compare", "more"),
        ("tune", "--warm-start"),
        ("train", "--trial"),
        ("scale", "--costs"),
    ],
    ids=" ".join,
)
def test_a_study_is_a_folder(words: tuple[str, ...], scripts: Path) -> None:
    assert completed(scripts, *words, "runs/") == {"runs/quickstart"}
    assert completed(scripts, *words, "runs/quickstart/t") == {"runs/quickstart/trial_00000"}


def test_what_is_written_is_a_file_or_a_folder(scripts: Path) -> None:
    assert completed(scripts, "front", "more", "--out", "runs/") == {"runs/quickstart", "runs/notes.txt"}


def test_no_argument_that_names_a_path_is_forgotten() -> None:
    (verbs,) = (action.choices for action in all_verbs()._actions if isinstance(action.choices, dict))
    arguments: list[argparse.Action] = [action for parser in verbs.values() for action in parser._actions]
    assert {action.dest for action in arguments if action.type is Path} <= {*FOLDERS, "out"}
    assert {*FOLDERS, "out", "space"} == {action.dest for action in arguments if hasattr(action, "complete")}
    assert {*verbs} == {*VERBS}


def test_a_shell_completes_without_starting_python(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("subprocess.run", lambda command, run=subprocess.run, **rest: run([bash, *command[1:]], **rest))
    assert "quickstart.yaml" in completed(scripts, "tune", "--space", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_of_its_shell(shell: str, scripts: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    subprocess.run([shell, "-n", str(scripts / shell)], check=True)


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["tcsh"])
    assert caught.value.code == 2
    assert "invalid choice: 'tcsh' (choose from" in capsys.readouterr().err
