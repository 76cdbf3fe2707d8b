"""The console script `cfamc`, and the scripts in `analysis` that do the same in a checkout."""

import argparse
import runpy
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from cfamc_ray.cli.command import add_run_options, command_line
from cfamc_ray.cli.main import VERBS, main

ROOT = Path(__file__).parents[2]


def test_the_wheel_installs_the_script_and_one_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["cfamc_ray"]
    (name, value), *more = project["project"]["scripts"].items()
    assert (name, EntryPoint(name, value, "console_scripts").load(), more) == ("cfamc", main, [])


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_has_a_line_for_each_verb(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(VERBS)
    assert max(map(len, lines)) < 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a verb"),
        (["tuen", "--space", "quickstart.yaml"], "there is no verb 'tuen': did you mean tune? There are tune, "),
        (["--space"], "there is no verb '--space': there are tune, "),
    ],
)
def test_without_a_verb_that_exists_it_says_which_there_are(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    output = capsys.readouterr()
    usage, line = output.err.splitlines()
    assert usage == "usage: cfamc VERB [OPTIONS]"
    assert line.startswith(f"cfamc: {said}")
    assert line.endswith(", ".join(VERBS))
    assert output.out == ""


@pytest.mark.parametrize("words", [["--help"], ["front", "--help"]], ids=" ".join)
def test_a_reader_of_the_help_that_ends_early_is_no_error(words: list[str]) -> None:
    command = [sys.executable, "-m", "cfamc_ray.cli.main", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(120)) == (b"", 0)


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_examples_that_the_verb_understands(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    said = capsys.readouterr().out
    examples = [line.strip() for line in said.partition("\nexamples:\n")[2].splitlines() if line.startswith("    ")]
    assert examples
    assert max(map(len, examples)) <= 80
    parse, parsed = argparse.ArgumentParser.parse_args, []

    def parse_only(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
        parsed.append(parse(parser, words))
        raise SystemExit(0)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    for example in examples:
        program, *words = shlex.split(example)
        assert program == "cfamc"
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 0, capsys.readouterr().err
    assert len(parsed) == len(examples)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_called_as_it_was_typed(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: cfamc {verb} ")


@pytest.mark.parametrize("verb", ["report", "front", "compare", "effects", "scaling"])
def test_so_is_a_script_of_analysis(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["", "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(f"analysis.{verb}", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m analysis.{verb} ")


def test_a_verb_s_exit_code_is_that_of_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["front", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path}: holds no study (there is no study.yaml in it)\n"


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], {"numpy", "pydantic"}),
        (["front", "--help"], {"torch", "ray"}),
        (["completion", "bash"], {"torch", "ray"}),
    ],
)
def test_only_the_verb_s_own_module_is_imported(words: list[str], absent: set[str]) -> None:
    program = (
        "import atexit, sys; from cfamc_ray.cli.main import main; "
        f"atexit.register(lambda: print({absent!r} & {{*sys.modules}}, file=sys.stderr)); main({words!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == "set()\n"


@pytest.mark.parametrize(
    ("prog", "expected"),
    [("cfamc tune", ["cfamc", "tune"]), ("python -m cfamc_ray.tune", ["python", "-m", "cfamc_ray.tune"])],
)
def test_a_command_to_resume_is_typed_as_the_first_one_was(prog: str, expected: list[str]) -> None:
    parser = argparse.ArgumentParser(prog=prog)
    add_run_options(parser, run="run", source="space", verbose="more")
    name, *words = shlex.split(command_line(["--space", "mine"], parser.parse_args(["--set", "question=Why, why?"])))
    assert [Path(name).name, *words] == [*expected, "--space", "mine", "--set", "question=Why, why?"]
