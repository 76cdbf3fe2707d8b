"""What a GPU has to show, on a machine that may have nothing but PyTorch: tests, the step, a training run.

    python3 -m benchmarks.on_gpu.run {lease,full,tiny} [--out FOLDER] [--parts PART ...]

`lease` ends within 500 seconds and takes wheels and images from the folder .on_gpu, which `prepare` filled; `full` has
no limit, and wants this project's environment and CIFAR-10 in the folder that CFAMC_DATA names; `tiny` is to try the
command itself, on a CPU too. Each part is a process with a time limit of its own. What it found is at once a line of
parts.jsonl in the folder of results ($OUT, else on_gpu_results), all that it printed is in log.txt; a part that fails
leaves the others as they are. Only the standard library is imported before the wheels are installed.
"""

import argparse
import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FASTER = ("compile", "cuda_graph", "split_stem", "fused_norm")
"""Keys of `pretraining` that change how a step is computed, not what."""
ON_GPUS = {"cuda_graph", "split_stem", "fused_norm"}
"""Of these, the ones that not every CPU has."""
SPEEDS: dict[str, tuple[str, ...]] = {
    "eager": (),
    **{key: (key,) for key in FASTER},
    "all": FASTER,
    "compile split_stem": ("compile", "split_stem"),
}
"""Parts that measure the paper's step, and the keys that they switch on."""
SMALL: dict[str, tuple[str, ...]] = {"small eager": (), "small cuda_graph": ("cuda_graph",)}
"""The same for a width that a search runs."""
SMALL_ENCODER = ("encoder.width=16", "encoder.prefeature_width=512", "encoder.hidden_width=512")
PUBLISHED = "published loop"
"""The part that measures the published loop beside ours without any of the keys that make it faster."""
PARTS = ("tests", *SPEEDS, *SMALL, PUBLISHED, "training", "evaluation")
PR_SET_CHILD_SUBREAPER = 36
"""Of Linux's prctl."""
PAPER_PASSES = 2.4e7
"""Crop passes of the paper's run."""
TESTS_AT_ONCE = 8
GRACE = 10.0
"""Seconds that a part has, once its time is over, to say where it was."""
LINES = 12
"""Of a part's log that are shown where it failed."""
TOY = ("encoder.width=4", "encoder.prefeature_width=16", "encoder.hidden_width=16", "encoder.embedding_width=8")


@dataclass(frozen=True)
class Plan:
    """How much of everything; times in seconds."""

    seconds: float = math.inf
    """In all."""
    tests: float = math.inf
    step: float = math.inf
    """For each measurement of the step."""
    training: float = math.inf
    """Kept for training and evaluation."""
    evaluation: float = math.inf
    """Of these, for the evaluation."""
    passes_of_image: int = 48
    """Crop passes of an epoch: views times replays of the training run."""
    passes: float = PAPER_PASSES
    """Of the training run, at most."""
    packed: bool = True
    """Whether wheels and images come from the folder that `prepare` filled."""
    sizes: Sequence[str] = ()
    """Options of the benchmark of the step."""
    keys: Sequence[str] = ()
    """Of the training run."""
    protocol: Sequence[str] = ()
    """Keys of the evaluation."""


PLANS = {
    "lease": Plan(
        seconds=490,
        tests=80,
        step=100,
        training=150,
        evaluation=40,
        sizes=("--repeats", "2", "--minibatches", "10"),
        protocol=("attacked_images=1000", "attack.restarts=1", "epsilons=[4/255, 8/255]", "autoattack_images=0"),
    ),
    "full": Plan(packed=False, sizes=("--repeats", "5", "--minibatches", "30")),
    "tiny": Plan(
        seconds=900,
        training=300,
        evaluation=120,
        passes_of_image=2,
        passes=800,
        sizes=(
            *("--repeats", "1", "--minibatches", "1", "--views", "2", "--batch-images", "2"),
            *(word for key in TOY for word in ("--set", key)),
        ),
        keys=(*TOY, "crops.views=2", "pretraining.batch_images=10", "pretraining.replays=1"),
        protocol=(
            *("images=20", "attacked_images=10", "attack.steps=1", "attack.restarts=1"),
            *("epsilons=[4/255, 8/255]", "autoattack_images=0"),
        ),
    ),
}


@dataclass
class Session:
    """The parts of one call, one after another.

    Args:
        plan: how much of everything.
        out: folder of results.
        work: folder of what does not come back.
        device: cuda or cpu.
    """

    plan: Plan
    out: Path
    work: Path
    device: str
    adopts: bool = False
    """Whether this process was told to `adopt_orphans` and starts nothing but parts."""
    started: float = field(default_factory=time.monotonic)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each part found that is done."""

    def __post_init__(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        for name in ("parts.jsonl", "log.txt"):
            (self.out / name).write_text("")
        self.path = [str(self.work / "site"), str(ROOT)]
        known = os.environ.get("PYTHONPATH")
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([*self.path, *([known] if known else [])]),
            "PYTHONUNBUFFERED": "1",
        }

    @property
    def left(self) -> float:
        """Seconds."""
        return self.plan.seconds - (time.monotonic() - self.started)

    def part(self, name: str, command: Sequence[str], *, limit: float = math.inf, result: Path | None = None) -> bool:
        """Run a command to its end or its time limit, and write down what came of it.

        Args:
            name: of the part.
            command: without the interpreter, where it is a module.
            limit: in seconds.
            result: a JSON file, or one with JSON lines, that it leaves.

        Returns:
            whether it was successful.
        """
        words = [sys.executable, *command] if command[0] == "-m" else list(command)
        limit, started = min(limit, self.left), time.monotonic()
        if limit < 1:
            return self.note(name, "left out: no time", 0, {})
        with (self.out / "log.txt").open("a+", errors="replace") as log:
            log.write(f"\n===== {name}: {' '.join(words)}\n")
            log.flush()
            begin = log.tell()
            try:
                process = subprocess.Popen(  # noqa: S603 (our own words)
                    words, cwd=ROOT, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            except OSError as error:
                return self.note(name, f"failed: {error}", 0, {})
            try:
                code = process.wait(None if math.isinf(limit) else limit)
                status = "done" if code == 0 else f"failed: exit code {code}"
            except subprocess.TimeoutExpired:
                status = f"failed: not done within {limit:.0f} s"
                os.killpg(process.pid, signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE)
            finally:
                kill(process.pid)  # the command, or what it left running
                process.wait()
                if self.adopts:
                    kill_children()
            log.seek(begin)
            lines = [line for line in log.read().splitlines() if line.strip()]
        found: dict[str, Any] = {"last_line": lines[-1] if lines else ""}
        if result is not None and result.is_file():
            found["result"] = read_result(result)
        elif result is not None and status == "done":
            status = f"failed: left no {result.name}"
        done = self.note(name, status, time.monotonic() - started, found)
        if not done:
            print("\n".join(f"    {line[:200]}" for line in lines[-LINES:]))
        return done

    def note(self, name: str, status: str, seconds: float, found: dict[str, Any]) -> bool:
        """Write a part down; whether it is done."""
        entry = {"part": name, "status": status, "seconds": round(seconds, 1), "left": self.left, **found}
        entry["left"] = None if math.isinf(self.left) else round(self.left, 1)
        with (self.out / "parts.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        remark = found.get("last_line", "")[:150] if name in ("tests", "device", "plan") or status != "done" else ""
        print(f"{name}: {status}, {seconds:.1f} s. {remark}{described(found.get('result'))}", flush=True)
        if status == "done":
            self.found[name] = found
        return status == "done"

    def speed(self, name: str) -> float:
        """Crop passes a second that a part measured; 0 where it failed."""
        result = self.found.get(name, {}).get("result")
        return float(result["ours"]["crops_per_s"]["median"]) if result else 0.0


def read_result(path: Path) -> Any:
    """A JSON file, or the lines of a .jsonl."""
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def described(result: Any) -> str:
    """A result in a few words."""
    if isinstance(result, dict) and "ours" in result:
        ratio = f", {result['ratio']['median']:.2f} times the published loop" if "ratio" in result else ""
        return (
            f"{result['milliseconds_per_replay']['median']:.2f} ms a replay, "
            f"{result['ours']['crops_per_s']['median']:.0f} crop passes/s{ratio}, "
            f"{result['peak_memory_bytes'] / 1e9:.2f} GB"
        )
    if isinstance(result, dict) and "results" in result:
        measured = [f"{r['label']} {r['epsilon'] * 255:g}/255 {r['accuracy']:.4f}" for r in result["results"]]
        return "; ".join(measured)
    return ""


def kill(process: int) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def adopt_orphans() -> bool:
    """Become the parent of what a part's processes leave running, also in sessions of their own; False but on Linux."""
    try:
        return ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0  # type: ignore[no-any-return]
    except (AttributeError, OSError):
        return False


def kill_children() -> None:
    """End what parts left running (torch's compile workers, say), which would slow down the next one."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                os.kill(int(stat.parent.name), signal.SIGKILL)
                os.waitpid(int(stat.parent.name), 0)


def switched(on: Sequence[str]) -> list[str]:
    """Words that set every key of `FASTER`."""
    return [word for key in FASTER for word in ("--set", f"pretraining.{key}={str(key in on).lower()}")]


def install(session: Session, folder: Path) -> None:
    """Unpack the images and install the wheels, as far as they were carried.

    Args:
        session: whose later parts find both.
        folder: that `prepare` filled.
    """
    data = session.work / "data"
    session.environment["CFAMC_DATA"] = str(data)
    unpacking = "import json, sys; from pathlib import Path; from benchmarks.on_gpu.sheets import unpack; "
    unpacking += "print(json.dumps(unpack(*map(Path, sys.argv[1:]))))"
    if any(folder.glob("*.webp")):
        session.part("images", [sys.executable, "-c", unpacking, str(folder), str(data / "cifar10.npz")])
    if wheels := sorted(map(str, folder.glob("*.whl"))):
        options = ["--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade", "--target"]
        session.part("wheels", ["-m", "pip", "install", "-q", *options, session.path[0], *wheels])


def measure_step(session: Session, name: str, on: Sequence[str]) -> None:
    """One way to compute the step."""
    switches = switched(on)
    if session.device == "cpu" and ON_GPUS & set(on):
        session.note(name, "left out: needs a GPU", 0, {})
        return
    result = session.work / f"{name.replace(' ', '_')}.json"
    words = ["-m", "benchmarks.training_step", "--device", session.device, "--json", str(result)]
    words += [*session.plan.sizes, *switches]
    words += [] if name == PUBLISHED else ["--alone"]
    words += ["--profile"] if name == "eager" else []
    words += [word for key in SMALL_ENCODER if name in SMALL for word in ("--set", key)]
    session.part(name, words, limit=min(session.plan.step, session.left - session.plan.training), result=result)


def fastest(session: Session) -> str:
    """The part that measured the most crop passes a second."""
    return max(SPEEDS, key=session.speed)


def fitting_keys(session: Session, images: int) -> list[str]:
    """As many images and epochs as the time that is left allows.

    Args:
        session: which knows the speed.
        images: that there are.
    """
    plan, start = session.plan, 40  # seconds of start: processes, compilation, the reading of images
    seconds = max(1.0, session.left - plan.evaluation - start)
    passes = min(plan.passes, 0.85 * seconds * (session.speed(fastest(session)) or 1e3))
    images = max(100, min(images, int(passes / plan.passes_of_image) // 100 * 100))
    epochs = max(1, int(passes / (images * plan.passes_of_image)))
    counts = {"data.pretrain_images": images, "data.probe_images": images, "pretraining.epochs": epochs}
    return [f"{key}={value}" for key, value in counts.items()]


def train_and_evaluate(session: Session, parts: Sequence[str]) -> None:
    """As much of the paper's run as fits, by the fastest way that was measured."""
    folder = session.work / "runs" / "on_gpu"
    if session.plan.packed and "images" not in session.found:
        parts = ()
    if "training" in parts:
        keys = list(session.plan.keys)
        if session.plan.packed:
            keys += fitting_keys(session, json.loads(session.found["images"]["last_line"])["train"])
        words = [word for key in ["pretraining.precision=auto", *keys] for word in ("--set", key)]
        words += switched(SPEEDS[fastest(session)])
        recipe = [
            "--recipe",
            "cf-amc-ssl",
            "--variant",
            "published",
            "--name",
            folder.name,
            "--out",
            str(folder.parent),
        ]
        print(f"training: {fastest(session)}, {', '.join(keys)}")
        session.part(
            "training",
            ["-m", "cfamc_ray.train", *recipe, "--device", session.device, *words],
            limit=session.left - session.plan.evaluation if session.plan.packed else math.inf,
            result=folder / "trial_00000" / "epochs.jsonl",
        )
    if "evaluation" in parts:
        record = session.work / "evaluation.json"
        words = [word for key in session.plan.protocol for word in ("--set", key)]
        session.part(
            "evaluation",
            ["-m", "cfamc_ray.evaluate", str(folder), "--device", session.device, "--out", str(record), *words],
            result=record,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """0 where all parts are done, 1 where one is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", choices=PLANS)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "on_gpu_results"))
    parser.add_argument("--folder", type=Path, default=ROOT / ".on_gpu", help="that prepare filled (.on_gpu)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, help="in all, instead of the plan's")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    chosen = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a part that runs is ended, too
    with tempfile.TemporaryDirectory(prefix="on_gpu_") as work:
        plan = PLANS[chosen.plan]
        plan = replace(plan, seconds=chosen.seconds or plan.seconds)
        if not {"training", "evaluation"} & set(chosen.parts):
            plan = replace(plan, training=0.0)
        session = Session(plan, chosen.out.resolve(), Path(work), chosen.device, adopts=adopt_orphans())
        session.note("plan", "done", 0, {"last_line": chosen.plan})
        if chosen.device == "cuda":
            session.part(
                "device", ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
            )
        if session.plan.packed:
            install(session, chosen.folder.resolve())
        sys.path[:0] = session.path
        try:
            import cfamc_ray.config.trial  # noqa: F401, PLC0415 (its wheels are installed meanwhile)
        except ImportError as error:
            session.note("import", f"failed: {error}", 0, {})
            return 1
        if "tests" in chosen.parts:
            alone = ["-c", os.devnull, "--noconftest", "-p", "no:cacheprovider", "-v", "--durations=10"]
            which = ["-m", "gpu"] if chosen.device == "cuda" else ["-m", "not gpu", "-k", "crops or scores"]
            if chosen.device == "cuda" and find_spec("xdist"):
                which += ["-n", str(TESTS_AT_ONCE), "--maxschedchunk", "1"]
            one_thread = ["env", "OMP_NUM_THREADS=1", sys.executable]  # tests that run side by side
            session.part(
                "tests", [*one_thread, "-m", "pytest", *alone, *which, "tests/test_gpu.py"], limit=session.plan.tests
            )
        for name, on in {**SPEEDS, **SMALL, PUBLISHED: ()}.items():
            if name in chosen.parts:
                measure_step(session, name, on)
        train_and_evaluate(session, chosen.parts)
        entries = [json.loads(line) for line in (session.out / "parts.jsonl").read_text().splitlines()]
        failed = [entry["part"] for entry in entries if entry["status"].startswith("failed")]
        print(f"{time.monotonic() - session.started:.0f} s in all; failed: {', '.join(failed) or 'nothing'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
