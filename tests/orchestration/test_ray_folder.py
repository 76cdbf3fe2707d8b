"""Where Ray keeps its sockets: in the folder for temporary files, unless it cannot work there."""

import os

import pytest

from cfamc_ray.orchestration.session import LONGEST_FOLDER, _ray_folder

ELSEWHERE = f"/tmp/ray-{os.getuid()}"  # noqa: S108


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/scratch/job 7%20?#{a}[b]", "/scratch/job 7%20?#{a}[b]/ray"),
        ("/" + "x" * (LONGEST_FOLDER - len("//ray")), "/" + "x" * (LONGEST_FOLDER - len("//ray")) + "/ray"),
        ("/" + "x" * (LONGEST_FOLDER - len("//ray") + 1), ELSEWHERE),
        ("/home/jos\u00e9", ELSEWHERE),
        ("/it's", ELSEWHERE),
        ('/a"b', ELSEWHERE),
        ("/a\\b", ELSEWHERE),
    ],
)
@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_it_is_below_the_one_that_is_named_where_ray_can_work_there(
    monkeypatch: pytest.MonkeyPatch, name: str, folder: str, expected: str
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, folder)
    assert _ray_folder() == expected


def test_ray_s_own_setting_comes_first_and_a_relative_one_is_of_the_working_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setenv("TMPDIR", "/other")
    monkeypatch.setenv("RAY_TMPDIR", "mine")
    assert _ray_folder() == "/mine/ray"
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.delenv("TMPDIR")
    assert _ray_folder() == "/tmp/ray"  # noqa: S108
