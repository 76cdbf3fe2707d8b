"""What a process that a signal killed had to say of it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cfamc_ray.orchestration.crashes import NOTHING_SAID, CrashReport, crash_reason
from cfamc_ray.store.records import TrialFolder

CRASH = """
import resource, signal, sys
from pathlib import Path
from cfamc_ray.host.files import write_text
from cfamc_ray.orchestration.crashes import CrashReport
from cfamc_ray.store.records import TrialFolder
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
report = CrashReport(TrialFolder(Path(sys.argv[1]), 3), int(sys.argv[2]))
if sys.argv[5:]:
    report.close()
def crash(*_, **__):
    signal.raise_signal(int(sys.argv[3]))
if sys.argv[4] == "ours":
    Path.write_text = crash
    write_text(Path(sys.argv[1]) / "file", "")
crash()
"""


def crash(study: Path, number: signal.Signals, *words: str, where: str = "theirs", rank: int = 0) -> TrialFolder:
    words = (str(study), str(rank), str(int(number)), where, *words)
    done = subprocess.run([sys.executable, "-c", CRASH, *words], capture_output=True, text=True, check=False)
    assert done.returncode == -number, done.stderr
    return TrialFolder(study, 3)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGSEGV, "Segmentation fault"),
        (signal.SIGABRT, "Aborted"),
        (signal.SIGBUS, "Bus error"),
        (signal.SIGFPE, "Floating point exception"),
    ],
)
def test_a_crash_is_named_with_the_place_where_python_was(tmp_path: Path, number: signal.Signals, said: str) -> None:
    folder = crash(tmp_path, number)
    text = crash_reason(folder).text.replace("Floating-point", "Floating point")  # as newer Pythons write it
    assert text == f"its process crashed: {said} in crash (<string>, line 12)"


def test_of_its_place_the_part_in_this_package_is_told(tmp_path: Path) -> None:
    reason = crash_reason(crash(tmp_path, signal.SIGSEGV, where="ours")).text
    assert reason.startswith("its process crashed: Segmentation fault in write_text (files.py, line ")


@pytest.mark.parametrize("words", [(), ("closed",)], ids=["", "closed"])
def test_a_process_that_was_killed_from_outside_said_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    folder = crash(tmp_path, signal.SIGKILL, *words)
    assert crash_reason(folder).text == NOTHING_SAID
    assert [path.stat().st_size for path in folder.path.iterdir()] == ([] if words else [0])


def test_of_several_workers_the_one_that_crashed_is_told(tmp_path: Path) -> None:
    crash(tmp_path, signal.SIGKILL, rank=0)
    folder = crash(tmp_path, signal.SIGABRT, rank=1)
    assert crash_reason(folder).text.startswith("its process crashed: Aborted in crash")


def test_a_new_start_forgets_what_an_earlier_one_said(tmp_path: Path) -> None:
    crash(tmp_path, signal.SIGSEGV)
    folder = crash(tmp_path, signal.SIGKILL)
    assert crash_reason(folder).text == NOTHING_SAID


def test_a_trial_that_ends_leaves_nothing_and_one_that_never_began_said_nothing(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path, 3)
    assert crash_reason(folder).text == NOTHING_SAID
    report = CrashReport(folder)
    assert [path.name for path in folder.path.iterdir()] == ["crash-0.txt"]
    report.close()
    report.close()  # a second time, as where a trial's process is reused
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Fatal Python error: Bus error\n\nCurrent thread 0x1 (most recent call first):\n", "Bus error"),
        ('Fatal Python error: Aborted\n\n  File "a b.py", line 7 in go\n  File', "Aborted in go (a b.py, line 7)"),
        ("\xff\0Fatal", None),
        ("Traceback of another kind", None),
    ],
)
def test_half_a_report_is_told_as_far_as_it_goes(tmp_path: Path, text: str, reason: str | None) -> None:
    folder = TrialFolder(tmp_path, 3)
    folder.open({})
    (folder.path / "crash-0.txt").write_bytes(text.encode("latin-1"))
    assert crash_reason(folder).text == (f"its process crashed: {reason}" if reason else NOTHING_SAID)
