"""`make` finds a Python that the project supports, and says which are supported where it finds none."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")


def make_setup(folder: Path, interpreters: Sequence[tuple[str, str]], *words: str) -> str:
    """What `make setup` would do in a new checkout, where these interpreters, name and version, are all there is."""
    for name, version in interpreters:
        program = f"import sys; sys.version_info = ({version.replace('.', ', ')}, 0, 'final', 0); exec(sys.argv[1])"
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$2"\n', encoding="utf-8")
        script.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    environment = {"PATH": str(folder), **{key: os.environ[key] for key in ("LANG", "HOME") if key in os.environ}}
    return subprocess.run(
        [str(MAKE), "--dry-run", "setup", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    ("interpreters", "chosen"),
    [
        (["3.11", "3.12", "3.13", "3.14"], "python3.12"),
        (["3.11", "3.13", "3.14"], "python3.13"),
        (["3.11", "3.14"], "python3.11"),
        (["3.14", "3.10", "3.15"], "python3.14"),
    ],
)
def test_make_takes_a_supported_python(interpreters: list[str], chosen: str, tmp_path: Path) -> None:
    commands = make_setup(tmp_path, [(f"python{version}", version) for version in interpreters])
    assert f"\n{chosen} -m venv .venv\n" in commands


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.14", "3.15"])
def test_make_and_the_package_support_the_same_versions(version: str, tmp_path: Path) -> None:
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    taken = "\npython3 -m venv .venv\n" in make_setup(tmp_path, [("python3", version)])
    assert taken is (version in SpecifierSet(metadata["requires-python"]))


def test_torch_without_cuda_is_not_given_the_cuda_packages_that_are_pinned(tmp_path: Path) -> None:
    commands = make_setup(tmp_path, [("python3.12", "3.12")], "TORCH=cpu")
    assert "--torch-backend cpu" in commands
    assert "--constraint requirements.txt" in commands
    assert "-r requirements.txt" not in commands
