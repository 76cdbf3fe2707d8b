"""What is left of a long study whose processes are killed and whose files are damaged, again and again.

The real command runs a study of very small trials on digits. Each run of it is disturbed at a random moment, while Ray
starts or while trials train: SIGKILL or SIGTERM to trial workers, which the study has to survive, and then to the
command itself, or to Ray's gcs_server or raylet, without which it has to end. Between two runs a few files of the
study are emptied, cut short, filled with NUL or random bytes, or deleted. The command is then typed again with
``--resume``, until the study is over.

A ledger, kept by this script alone, notes each trial when it is first seen to have ended. It tells whether a trial was
lost, trained a second time, or came to another result; only a trial whose own record was damaged may be trained again,
and must then reach the same accuracies. A point that was noted in two files, both of them damaged at once, is gone:
such a trial is counted as forgotten, and its folder has to be kept.

    nice python -m benchmarks.soak [--trials 300] [--seed 0] [--minutes 45] [--json FILE] [--work DIR]

Goes on from DIR where it was interrupted. Takes about 45 minutes on 2 busy cores; after ``--minutes`` nothing is
disturbed any more. Ends with 1 where a fault was found; they are listed in the result.
"""

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch

from benchmarks.timing import report, summary
from cfamc_ray.config.yaml12 import dump_yaml
from cfamc_ray.front.front import find_front
from cfamc_ray.host.files import write_text
from cfamc_ray.search.storage import open_storage
from cfamc_ray.store.layout import ENVIRONMENT, trial_name
from cfamc_ray.store.records import TrialFolder, TrialRecord, read_config, read_trials

ROOT = Path(__file__).resolve().parents[1]
MARK = "CFAMC_SOAK"
"""Environment variable by which the processes of a run are told from all others."""
SPACE: dict[str, Any] = {
    "name": "soak",
    "search": {"sampler": "random"},
    "resources": {"cpus_per_worker": 1, "restarts": 100},
    "keep_encoders": "front",
    "trial": {
        "data": {
            "name": "digits",
            "image_size": 16,
            "pretrain_images": 50,
            "probe_images": 50,
            "validation_images": 100,
        },
        "crops": {"size": 16},
        "encoder": {"width": 8, "prefeature_width": 16, "hidden_width": 16, "embedding_width": 8},
        "pretraining": {"batch_images": 25, "precision": "float32"},
        "evaluation": {"head": {"iterations": 10}, "attack": {"steps": 1}, "attacked_images": 50},
    },
    "space": {
        "crops.views": {"int": [2, 4]},
        "pretraining.epochs": {"int": [1, 2]},
        "perturbation.epsilon": {"float": [0.01, 0.1]},
        "optimizer.lr": {"choice": [0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0e30]},
    },
}
"""The last learning rate diverges at once, so that trials fail too."""
POLL_SECONDS = 0.1
FAILURES = 10
"""Runs that ended with 1 although nothing ended them, as three trials that diverge in a row do, before it gives up."""
STARTING_SECONDS = 25.0
"""Up to which a run counts as starting; the moments of a third of the disturbances are drawn from it."""
LIMIT_SECONDS = 300.0
"""Without a further trial, or from what should end a run to its end, before it counts as hanging."""
ORPHAN_SECONDS = 60.0
"""From the command's end to that of the last process that it started, before they count as left behind."""
ENDINGS = [f"{target} {name}" for target in ("command", "gcs_server", "raylet") for name in ("SIGKILL", "SIGTERM")]
EXPECTED_CODES = {
    "nothing": {0, 1},
    "command SIGTERM": {143, -signal.SIGTERM},
    "command SIGKILL": {-signal.SIGKILL, 0, 1},
    **{ending: {0, 1, 2} for ending in ENDINGS[2:]},
}
"""Exit codes by what ended a run. 1: Ray was lost, or three trials diverged in a row. -15: before Python had read the
program that heeds the signal. 0: it was at its end already."""
OF_TRIAL = ("trial.json", "epochs.jsonl", "outcome.json", "checkpoint.pt", "encoder.safetensors")
OF_STUDY = (ENVIRONMENT, "optuna.db")
STATES = {"finished": "COMPLETE", "failed": "FAIL"}
"""What Optuna calls the status of a trial."""
RECORD = OF_TRIAL[:3]
"""Files that tell how a trial ended."""
LOST_RAY = re.compile(r"Ray's (gcs_server|raylet).* died|ended without a message|Ray cannot start")
"""How the command says so."""
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "empty": lambda content, source: b"",
    "truncated": lambda content, source: content[: source.randrange(max(len(content), 1))],
    "NUL-filled": lambda content, source: bytes(len(content)),
    "random bytes": lambda content, source: source.randbytes(len(content)),
    "deleted": lambda content, source: None,
}


@dataclass
class Entry:
    """What the ledger knows of a trial that has ended."""

    status: str
    clean: float | None
    robust: float | None
    digests: dict[str, str]
    """SHA-256 of the files of its record."""
    encoder: str = ""
    """SHA-256 of its encoder."""
    excused: bool = False
    """Its record was damaged since: it may be trained again."""
    forgettable: bool = False
    """All that tells its point was damaged at once."""
    encoder_damaged: bool = False
    trained_again: int = 0

    @classmethod
    def of(cls, study: Path, record: TrialRecord) -> "Entry":
        """The entry of a trial that has ended."""
        row = record.rows[-1] if record.rows else {}
        folder = study / record.trial_id
        digests = {name: found for name in RECORD if (found := digest(folder / name))}
        accuracies = row.get("clean_accuracy"), row.get("robust_accuracy")
        return cls(record.status, *accuracies, digests, digest(TrialFolder(study, record.number).encoder))

    @property
    def result(self) -> tuple[str, float | None, float | None]:
        """What must be the same however often the trial is trained."""
        return self.status, self.clean, self.robust


@dataclass
class Ledger:
    """The trials that have ended, by number, as they were when that was first seen."""

    entries: dict[int, Entry] = field(default_factory=dict)
    forgotten: list[int] = field(default_factory=list)
    """Trials whose point nothing tells any more."""

    def note(self, study: Path) -> int:
        """Take in trials that have ended since; how many have in all."""
        for path in study.glob("trial_*"):
            number = path.name.removeprefix("trial_")
            if number.isdecimal() and int(number) not in self.entries:
                record = TrialFolder(study, int(number)).read()
                if record is not None and record.ended:
                    self.entries[record.number] = Entry.of(study, record)
        return len(self.entries)

    def damaged(self, number: int, name: str) -> None:
        """A file of the trial was damaged."""
        entry = self.entries.get(number)
        if entry is not None and name in RECORD:
            entry.excused = True
        elif entry is not None and name == "encoder.safetensors":
            entry.encoder_damaged = True

    def faults(self, study: Path) -> list[str]:
        """What a study lost, repeated or changed. An excused trial that has ended again is noted anew."""
        for number in [number for number, entry in self.entries.items() if entry.forgettable]:
            if any(study.glob(f"{trial_name(number)}.damaged*")):
                del self.entries[number]
                self.forgotten.append(number)
        self.note(study)
        records = {record.number: record for record in read_trials(study)}
        return [
            f"{trial_name(number)} {fault}"
            for number, entry in sorted(self.entries.items())
            if (fault := self._fault(study, entry, records.get(number)))
        ]

    def _fault(self, study: Path, entry: Entry, record: TrialRecord | None) -> str:
        if record is None or not record.ended:
            return "" if entry.excused else "was lost"
        now = Entry.of(study, record)
        if now.result != entry.result:
            return f"was changed: {entry.result} became {now.result}"
        if now.digests != entry.digests:
            if not entry.excused:
                return "was repeated"
            entry.trained_again += now.digests.get("epochs.jsonl") != entry.digests.get("epochs.jsonl")
            entry.digests = now.digests
        entry.excused = entry.forgettable = False
        return ""

    def faults_at_the_end(self, study: Path, *, trials: int) -> list[str]:
        """What is wrong with a study that is over, beside what `faults` finds.

        Args:
            study: its folder.
            trials: how many it has to have.
        """
        config, records = read_config(study), read_trials(study)
        found = [f"{record.trial_id} was not seen to end" for record in records if record.number not in self.entries]
        found += [f"{record.trial_id} has not ended" for record in records if not record.ended]
        if len(records) != trials:
            found.append(f"there are {len(records)} trials instead of {trials}")
        for member in find_front(config, records).members:
            entry, encoder = self.entries[member.number], TrialFolder(study, member.number).encoder
            if digest(encoder) != entry.encoder and not (entry.encoder_damaged or self.forgotten):
                found.append(f"{member.trial_id} is on the front and its encoder was {_lost_or_changed(encoder)}")
        stored = optuna.load_study(study_name=config.name, storage=open_storage(study)).get_trials(deepcopy=False)
        told = {trial.number: trial.state.name for trial in stored}
        for record in records:
            if told.get(record.number) != STATES[record.status]:
                found.append(f"{record.trial_id} {record.status}, and Optuna's storage has {told.get(record.number)}")
        return found


def _lost_or_changed(path: Path) -> str:
    return "changed" if path.exists() else "lost"


def digest(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


@dataclass
class RunEntry:
    """What was done to one run of the command, and what came of it."""

    number: int
    damaged: list[str]
    """Files and their damage, before it began."""
    events: list[str] = field(default_factory=list)
    ending: str = "nothing"
    """What was done to end it."""
    moment: str = ""
    code: int = 0
    seconds: float = 0.0
    trials: int = 0
    """That ended in it."""
    seconds_to_end: float | None = None
    """From the disturbance."""
    seconds_to_word: float | None = None
    """From the death of Ray's process to its cause in the terminal."""
    told_how_to_go_on: bool | None = None
    seconds_of_orphans: float = 0.0
    """From the command's end to that of the last process that it had started."""


@dataclass
class State:
    """All that is kept between two starts of this script."""

    mark: str
    ledger: Ledger = field(default_factory=Ledger)
    runs: list[RunEntry] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    unrepaired: list[str] = field(default_factory=list)
    """Damaged files, by their path in the study, that no run may have come to yet."""

    @classmethod
    def read(cls, file: Path) -> "State":
        """As it was written; a new one where there is no file."""
        if not file.exists():
            return cls(f"soak-{os.getpid()}-{time.time_ns()}")
        known = json.loads(file.read_text())
        ledger = known.pop("ledger")
        entries = {int(number): Entry(**entry) for number, entry in ledger.pop("entries").items()}
        runs = [RunEntry(**run) for run in known.pop("runs")]
        return cls(**known, ledger=Ledger(entries, **ledger), runs=runs)

    def write(self, file: Path) -> None:
        """Keep it."""
        write_text(file, json.dumps(asdict(self)))


class Command:
    """The command as a process, with all that Ray starts below it.

    Args:
        words: its options.
        mark: that all its processes carry.
        output: file of what it prints.
    """

    def __init__(self, words: Sequence[str], *, mark: str, output: Path) -> None:
        self.mark, self.output = mark, output
        self.started = time.monotonic()
        with output.open("w") as file:
            self.process = subprocess.Popen(  # noqa: S603 (our own words)
                [sys.executable, "-m", "cfamc_ray.tune", *words],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.started

    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")

    def ended(self) -> bool:
        """Whether the command itself has."""
        return self.process.poll() is not None

    def strike(self, target: str, number: int, source: random.Random) -> bool:
        """Send a signal to the command, or to one of its processes whose command line holds a text; whether one did."""
        found = [self.process.pid] if target == "command" else list(marked(self.mark, target))
        if not found or self.ended():
            return False
        with suppress(ProcessLookupError):
            os.kill(source.choice(found), number)
            return True
        return False


def marked(mark: str, name: str = "") -> Iterator[int]:
    """Ids of the processes that carry a mark in their environment, and whose command line holds a text."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            carries = f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0")
            # Of the command line only the program counts: raylet is also a word of other programs' options.
            if carries and name in (process / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace"):
                yield int(process.name)


def end_processes(mark: str) -> None:
    """Kill the processes that carry a mark."""
    for process in marked(mark):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


class Soak:
    """Runs, disturbances and the ledger of one study.

    Args:
        work: folder of the study, of what the runs print, and of the state.
        trials: of the study.
        seed: of the disturbances.
        minutes: after which nothing is disturbed any more.
    """

    def __init__(self, work: Path, *, trials: int, seed: int, minutes: float) -> None:
        self.work, self.trials, self.seed, self.minutes = work, trials, seed, minutes
        work.mkdir(parents=True, exist_ok=True)
        self.state = State.read(work / "state.json")
        self.space, self.study = work / "soak.yaml", work / "soak"
        self.space.write_text(dump_yaml(SPACE))
        self.started = time.monotonic() - self.state.seconds
        end_processes(self.state.mark)  # of a run in which this script was interrupted

    def run(self) -> State:
        """Run the command until the study is over."""
        self._verify("before")
        failures = 0
        while not self._run_once():
            failures += self.state.runs[-1].ending == "nothing" and self.state.runs[-1].code != 0
            if failures > FAILURES:
                self._fault(f"{failures} runs that nothing ended did not end the study")
                return self.state
        for fault in self.state.ledger.faults_at_the_end(self.study, trials=self.trials):
            self._fault(f"end: {fault}")
        return self.state

    def _run_once(self) -> bool:
        """One run, the damage before it included; whether the study is over."""
        state = self.state
        number = len(state.runs) + 1
        source = random.Random(f"{self.seed}-{number}")  # noqa: S311 (no secret)
        disturb = time.monotonic() - self.started < 60 * self.minutes
        run = RunEntry(number, self._damage(source) if disturb and number > 1 else [])
        began = state.ledger.note(self.study)
        command = Command(self._words(source), mark=state.mark, output=self.work / f"run_{number:04}.txt")
        if disturb:
            self._disturb(command, run, source)
        self._wait(command, run)
        run.seconds, run.code = command.seconds, command.process.returncode
        self._orphans(run)
        run.trials = state.ledger.note(self.study) - began
        text = command.text()
        self._judge(run, text)
        state.runs.append(run)
        state.seconds = time.monotonic() - self.started
        self._verify(f"run {number}")
        state.write(self.work / "state.json")
        print(
            f"run {number}: {run.seconds:.0f} s, {run.ending} {run.moment}, exit code {run.code}, "
            f"{len(state.ledger.entries)} of {self.trials} trials; {len(state.faults)} faults",
            flush=True,
        )
        return run.code == 0 and "The study is over" in text

    def _words(self, source: random.Random) -> list[str]:
        begun = (self.study / "study.yaml").exists() or any(read_trials(self.study))
        return [
            *("--space", str(self.space), "--out", str(self.work), "--trials", str(self.trials)),
            *("--set", f"resources.trials_at_once={source.choice([1, 2])}"),
            *(["--resume"] if begun else []),
        ]

    def _disturb(self, command: Command, run: RunEntry, source: random.Random) -> None:
        run.moment = source.choice(["while it starts", "while trials train", "while trials train"])
        ending = source.choice(ENDINGS)
        if run.moment == "while it starts":
            self._pass(command, seconds=source.uniform(0, STARTING_SECONDS))
        else:
            self._pass(command, trials=source.randint(1, 12))
            self._pass(command, seconds=source.uniform(0, 1))
            while source.random() < 0.4:
                name = source.choice(["SIGKILL", "SIGTERM"])
                if command.strike("ray::", getattr(signal, name), source):
                    run.events.append(f"worker {name}")
                self._pass(command, seconds=source.uniform(0, 4))
        target, name = ending.split()
        while not command.ended():
            if command.strike(target, getattr(signal, name), source):
                run.ending = ending
                run.events.append(ending)
                return
            time.sleep(POLL_SECONDS)  # until Ray has started

    def _pass(self, command: Command, *, seconds: float = LIMIT_SECONDS, trials: int | None = None) -> None:
        """Let time pass, until so many more trials have ended if that comes first."""
        until, begun = time.monotonic() + seconds, len(self.state.ledger.entries)
        while time.monotonic() < until and not command.ended():
            if trials is not None and self.state.ledger.note(self.study) >= begun + trials:
                return
            time.sleep(POLL_SECONDS)
        if trials is not None and not command.ended():
            self._fault(f"no trial ended within {seconds:.0f} s")

    def _wait(self, command: Command, run: RunEntry) -> None:
        """Until it has ended, noting trials as they end; one that hangs is killed, which is a fault."""
        struck = since = time.monotonic()
        known = len(self.state.ledger.entries)
        ended = False
        while not ended:
            ended = command.ended()
            if run.seconds_to_word is None and LOST_RAY.search(command.text()):
                run.seconds_to_word = time.monotonic() - struck
            if run.ending == "nothing" and self.state.ledger.note(self.study) > known:
                known, since = len(self.state.ledger.entries), time.monotonic()
            if time.monotonic() - since > LIMIT_SECONDS:
                self._fault(f"run {run.number}: hangs {LIMIT_SECONDS:.0f} s after {run.ending} {run.moment}")
                end_processes(self.state.mark)
            time.sleep(0 if ended else POLL_SECONDS)
        if run.ending != "nothing":
            run.seconds_to_end = time.monotonic() - struck

    def _orphans(self, run: RunEntry) -> None:
        """Wait for the end of the processes that the command had started: they may still write."""
        ended = time.monotonic()
        while left := list(marked(self.state.mark)):
            run.seconds_of_orphans = time.monotonic() - ended
            if run.seconds_of_orphans > ORPHAN_SECONDS:
                names = [Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0].strip() for pid in left]
                self._fault(f"run {run.number}: left behind {', '.join(names)}")
                end_processes(self.state.mark)
            time.sleep(POLL_SECONDS)

    def _judge(self, run: RunEntry, text: str) -> None:
        """Exit code and words of a run."""
        if run.code not in EXPECTED_CODES[run.ending]:
            self._fault(f"run {run.number}: exit code {run.code} after {run.ending} {run.moment}")
        if "Traceback (most recent call last)" in text:
            self._fault(f"run {run.number}: a traceback in its output")
        if run.ending == "command SIGTERM" and run.code == 143:
            run.told_how_to_go_on = "--resume" in text
        if run.code == 1 and "The study is over" not in text and not LOST_RAY.search(text):
            self._fault(f"run {run.number}: did not say why it ended, after {run.ending} {run.moment}")
        if " trials done" in text or "The study is over" in text:
            self.state.unrepaired.clear()

    def _damage(self, source: random.Random) -> list[str]:
        """Damage some files of the study; which, and how."""
        names = source.sample([*OF_TRIAL, *OF_STUDY], source.randint(0, 3))
        done = []
        for name in dict.fromkeys(names + ["checkpoint.pt"] * (source.random() < 0.5)):  # which are seldom there
            there = sorted(self.study.glob(name if name in OF_STUDY else f"trial_?????/{name}"))
            if not there:
                continue
            path, kind = source.choice(there), source.choice(list(DAMAGES))
            self._note_damage(str(path.relative_to(self.study)))
            content = DAMAGES[kind](path.read_bytes(), source)
            path.unlink() if content is None else path.write_bytes(content)
            done.append(f"{path.relative_to(self.study)} {kind}")
        return done

    def _note_damage(self, path: str) -> None:
        """Before it is done: this script may be interrupted too."""
        state = self.state
        state.unrepaired.append(path)
        folder, _, name = path.rpartition("/")
        if folder:
            state.ledger.damaged(int(folder.removeprefix("trial_")), name)
        if "optuna.db" in state.unrepaired:
            for number, entry in state.ledger.entries.items():
                entry.forgettable |= f"{trial_name(number)}/trial.json" in state.unrepaired
        state.write(self.work / "state.json")

    def _verify(self, when: str) -> None:
        for fault in self.state.ledger.faults(self.study):
            self._fault(f"{when}: {fault}")

    def _fault(self, fault: str) -> None:
        print(f"FAULT {fault}", flush=True)
        self.state.faults.append(fault)


def result(state: State, *, trials: int, seed: int) -> dict[str, Any]:
    """What is reported of a soak.

    Args:
        state: at its end.
        trials: that the study was to have.
        seed: of the disturbances.
    """
    entries = state.ledger.entries.values()
    by_signal = [run for run in state.runs if run.told_how_to_go_on is not None]
    ray_lost = [run for run in state.runs if run.seconds_to_word is not None]
    damaged = Counter(Path(damage).name for run in state.runs for damage in run.damaged)
    return {
        "faults": state.faults,
        "trials": trials,
        "seed": seed,
        "runs": len(state.runs),
        "seconds": state.seconds,
        "ended": Counter(entry.status for entry in entries),
        "trained_again_after_damage_to_the_same_accuracies": sum(entry.trained_again for entry in entries),
        "forgotten": len(state.ledger.forgotten),
        "events": Counter(event for run in state.runs for event in run.events),
        "moments": Counter(f"{run.ending} {run.moment}" for run in state.runs),
        "damages": dict(sorted(damaged.items())),
        "exit_codes": Counter(str(run.code) for run in state.runs),
        "seconds_of_a_run": _summary(run.seconds for run in state.runs),
        "seconds_from_sigterm_to_end": _summary(run.seconds_to_end for run in by_signal),
        "told_how_to_go_on": f"{sum(bool(run.told_how_to_go_on) for run in by_signal)} of {len(by_signal)}",
        "seconds_from_ray_lost_to_its_cause_in_the_terminal": _summary(run.seconds_to_word for run in ray_lost),
        "seconds_from_ray_lost_to_end": _summary(run.seconds_to_end for run in ray_lost),
        "seconds_from_the_command_to_its_last_process": _summary(run.seconds_of_orphans for run in state.runs),
        "each_run": [asdict(run) for run in state.runs],
    }


def _summary(values: Iterable[float | None]) -> dict[str, float] | None:
    """Median and range of those that there are."""
    there = [value for value in values if value is not None]
    return summary(there) if there else None


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--trials", type=int, default=300, metavar="N", help="of the study")
    options.add_argument("--seed", type=int, default=0, help="of the disturbances")
    options.add_argument("--minutes", type=float, default=45, help="after which nothing is disturbed any more")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    options.add_argument("--work", type=Path, default=Path("runs/soak"), metavar="DIR", help="where the study lies")
    arguments = options.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)  # as in the trials, for the device's name
    soak = Soak(arguments.work.resolve(), trials=arguments.trials, seed=arguments.seed, minutes=arguments.minutes)
    state = soak.run()
    report(result(state, trials=arguments.trials, seed=arguments.seed), torch.device("cpu"), arguments.json)
    sys.exit(int(bool(state.faults)))


if __name__ == "__main__":
    main()
