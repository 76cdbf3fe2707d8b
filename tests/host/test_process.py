"""A command as a process: the signals that end it, and output that nobody reads or that cannot be shown."""

import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cfamc_ray.host.process import command_process, exit_code_of_interruption, lasting_stream

START = """
import os, sys, time
from cfamc_ray.host.process import INTERRUPTED, before_end, command_process, end_now, exit_code_of_interruption
"""
WAIT = """
with command_process():
    try:
        print("at work", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("put away", flush=True)
        os._exit(exit_code_of_interruption())
"""
SAY = """
with command_process():
    for number in range(3):
        print(number, "μ → \\udcff", flush=True)
        time.sleep(0.05)
    print("told", file=sys.stderr)
sys.exit(7)
"""
UNBUFFERED = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])


def start(
    program: str, *, setting: str = ":", output: int = subprocess.PIPE, **environment: str
) -> subprocess.Popen[bytes]:
    """A Python process of a shell, in which something was set before."""
    return subprocess.Popen(
        ["/bin/sh", "-c", f'{setting}; exec "$@"', "sh", sys.executable, "-c", START + program],
        stdout=output,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )


def end(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=100)
    return process.returncode, (out or b"").decode(), err.decode()


class TestSignals:
    @pytest.mark.parametrize(
        ("number", "setting", "code"),
        [
            (signal.SIGINT, ":", 130),
            (signal.SIGTERM, ":", 143),
            (signal.SIGHUP, ":", 129),
            (signal.SIGTERM, "trap '' INT", 143),  # as a script has it for what runs in its background
            (signal.SIGHUP, "trap '' INT", 129),
        ],
        ids=str,
    )
    def test_each_is_taken_for_ctrl_c_and_has_a_code_of_its_own(
        self, number: signal.Signals, setting: str, code: int
    ) -> None:
        process = start(WAIT, setting=setting)
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert end(process) == (code, "put away\n", "")

    def test_under_nohup_the_end_of_the_terminal_ends_nothing(self) -> None:
        process = start(WAIT, setting="trap '' HUP")
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.send_signal(signal.SIGTERM)
        assert end(process) == (143, "put away\n", "")

    def test_a_second_one_ends_what_the_first_one_began_and_the_first_one_has_the_code(self) -> None:
        program = """
with command_process():
    for word in ("at work", "put away", "never"):
        try:
            print(word, flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            if word == "put away":
                os._exit(exit_code_of_interruption())
"""
        process = start(program)
        assert process.stdout is not None
        for number in (signal.SIGHUP, signal.SIGTERM):
            process.stdout.readline()
            process.send_signal(number)
        assert end(process)[0] == 129

    def test_they_are_as_before_afterwards(self) -> None:
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
        with command_process():
            assert signal.getsignal(signal.SIGTERM) not in before
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


class TestEndNow:
    @pytest.mark.parametrize(("number", "code"), [(None, 1), (signal.SIGTERM, 143)], ids=str)
    def test_it_does_what_is_left_from_any_thread_the_last_thing_first(
        self, number: signal.Signals | None, code: int
    ) -> None:
        program = f"""
import signal, threading
with command_process():
    before_end(lambda: print("first", flush=True))
    before_end(lambda: 1 // 0)
    before_end(lambda: print("last", flush=True))
    try:
        if {int(number or 0)}:
            signal.raise_signal({int(number or 0)})
    except KeyboardInterrupt:
        pass
    threading.Thread(target=end_now, args=(1,)).start()
    time.sleep(60)
"""
        assert end(start(program)) == (code, "last\nfirst\n", "")

    def test_nothing_is_left_of_an_earlier_command_in_the_same_process(self) -> None:
        program = """
with command_process():
    before_end(lambda: print("of the first"))
with command_process():
    before_end(lambda: print("of the second", flush=True))
    end_now(3)
"""
        assert end(start(program)) == (3, "of the second\n", "")


class TestOutput:
    @UNBUFFERED
    def test_a_reader_that_goes_ends_nothing(self, unbuffered: str) -> None:
        process = start(SAY, PYTHONUNBUFFERED=unbuffered)
        assert process.stdout is not None
        assert process.stdout.readline() == b"0 \xce\xbc \xe2\x86\x92 ?\n"
        process.stdout.close()
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait()) == (b"told\n", 7)

    @UNBUFFERED
    def test_a_terminal_that_goes_ends_nothing(self, unbuffered: str) -> None:
        ours, theirs = pty.openpty()
        process = start(SAY, output=theirs, PYTHONUNBUFFERED=unbuffered)
        os.close(theirs)
        assert os.read(ours, 1) == b"0"
        os.close(ours)
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait()) == (b"told\n", 7)

    @UNBUFFERED
    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_a_letter_that_the_terminal_lacks_becomes_a_question_mark(self, unbuffered: str, encoding: str) -> None:
        code, out, err = end(start(SAY, PYTHONUNBUFFERED=unbuffered, PYTHONIOENCODING=encoding))
        shown = {"ascii": "? ? ?", "latin-1": "\ufffd ? ?"}[encoding]  # µ of latin-1 is another letter than μ
        assert (code, err) == (7, "told\n")
        assert out in ("".join(f"{number} {letters}\n" for number in range(3)) for letters in (shown, "? ? ?"))

    @UNBUFFERED
    def test_a_full_disk_under_the_output_ends_nothing_but_is_told(self, unbuffered: str) -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        code, _, err = end(start(SAY, output=full, PYTHONUNBUFFERED=unbuffered))
        os.close(full)
        assert (code, err) == (7, "told\nSome of the output is lost, because its disk was full\n")

    def test_of_a_disk_that_is_full_for_a_while_what_came_afterwards_is_kept(self) -> None:
        program = """
with command_process():
    free = os.dup(1)
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    print("lost", flush=True)
    os.dup2(free, 1)
    print("kept", flush=True)
"""
        assert end(start(program))[:2] == (0, "kept\n")

    @pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&- 1>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
    def test_streams_that_were_closed_from_the_start_end_nothing_and_no_file_gets_their_place(
        self, closed: str, tmp_path: Path
    ) -> None:
        program = f"""
with command_process():
    file = open({str(tmp_path / "file")!r}, "w")
    print("→", flush=True)
    print("told", file=sys.stderr, flush=True)
    os.write(1, b"of C"), os.write(2, b"of C")
    sys.exit(file.fileno() > 2 and 7)
"""
        assert end(start(program, setting=f"exec {closed}"))[0] == 7
        assert (tmp_path / "file").read_text() == ""

    def test_what_a_program_has_put_in_its_place_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mine = io.StringIO()
        monkeypatch.setattr(sys, "stdout", mine)
        with command_process():
            assert sys.stdout is mine
            print("→")
        assert (sys.stdout, mine.getvalue()) == (mine, "→\n")

    def test_an_error_of_another_kind_is_not_hidden(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        descriptor = os.open(tmp_path / "file", os.O_RDONLY)
        stream = lasting_stream(descriptor, encoding="utf-8")
        with pytest.raises(OSError, match="Bad file descriptor"):
            print("no", file=stream, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        stream.close()


ENDS = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from cfamc_ray.cli.command import exit_code

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


LENT = """
import signal
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
from cfamc_ray.host.process import heed_signals, is_command
heed_signals()
before_end(lambda: print("not ours to end", flush=True))
assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
with command_process():
    assert is_command()
assert not is_command()
before_end(lambda: print("nor later", flush=True))
end_now(5)
"""


def test_a_process_that_runs_no_command_is_left_alone() -> None:
    assert end(start(LENT)) == (5, "", "")
