"""Crash reports of trial processes, of which Ray only knows that they have ended."""

import faulthandler
import re
from pathlib import Path

from cfamc_ray.store.records import TrialFolder
from cfamc_ray.store.stop_reason import StopReason

CAUSE = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
FRAME = re.compile(r'^  File "(.+)", line (\d+) in (\S+)$', re.MULTILINE)
NOTHING_SAID = "its process was killed from outside, as the system does where memory runs out"


class CrashReport:
    """A file to which Python writes its stack if the process receives a signal such as SIGSEGV.

    Args:
        folder: folder of the trial.
        rank: rank of the worker.
    """

    def __init__(self, folder: TrialFolder, rank: int = 0) -> None:
        folder.path.mkdir(parents=True, exist_ok=True)
        self._path = folder.path / f"crash-{rank}.txt"
        self._file = self._path.open("w", encoding="utf-8")
        faulthandler.enable(self._file)

    def close(self) -> None:
        """Remove the report after a trial without a crash."""
        faulthandler.disable()
        self._file.close()
        self._path.unlink(missing_ok=True)


def crash_reason(folder: TrialFolder) -> StopReason:
    """Reason why a trial's process died, from the first crash report of its workers.

    Args:
        folder: folder of the trial.
    """
    for path in sorted(folder.path.glob("crash-*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if cause := CAUSE.search(text):
            frames = FRAME.findall(text)
            ours = [frame for frame in frames if f"{Path(__file__).parent.parent}/" in frame[0]] or frames
            where = f" in {ours[0][2]} ({Path(ours[0][0]).name}, line {ours[0][1]})" if ours else ""
            return StopReason("crashed", f"its process crashed: {cause[1]}{where}", origin=cause[1] + where)
    return StopReason("killed", NOTHING_SAID)
