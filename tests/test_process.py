"""The signals that end a command's process."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cfamc_ray.process import command_process, exit_code_of_interruption

ENDS = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from cfamc_ray.command import exit_code

def command():
    signal.raise_signal(signal.{name})
    return 0

sys.exit(exit_code(command))
"""
MODULE = "import signal, time\nsignal.raise_signal(signal.{name})\ntime.sleep(0.5)\nwhole = True\n"


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 0)])
def test_a_command_that_a_shell_started_in_the_background_ends_by_all_but_ctrl_c(name: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", ENDS.format(name=name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "Interrupted\n" if code else "")


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_waits_for_the_end_of_an_import(
    name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"imported_at_{name.lower()}"
    (tmp_path / f"{module}.py").write_text(MODULE.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)

    def import_and_go_on() -> None:
        __import__(module)
        time.sleep(60)

    with command_process():
        with pytest.raises(KeyboardInterrupt):
            import_and_go_on()
        assert sys.modules.pop(module).whole
        assert exit_code_of_interruption() == code
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
