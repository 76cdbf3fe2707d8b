"""What the commands share: options, exit codes, and the command line that resumes."""

import argparse
import errno
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cfamc_ray.config.attacks import AttackConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.config.types import Norm
from cfamc_ray.cost.model import CostModel
from cfamc_ray.formatting import MISSING, format_count, format_quantity, format_radius, format_seconds
from cfamc_ray.host.files import is_disk_full
from cfamc_ray.host.process import INTERRUPTED, command_process, exit_code_of_interruption
from cfamc_ray.lifecycle.plans import runs_folder
from cfamc_ray.terminal import add_detail_options, detail_words

EXAMPLES = "examples:"
OF_PLACES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "name a place that can be read and written"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.ELOOP), "name another place"),
    errno.ENAMETOOLONG: "name a shorter one",
}
"""What an operating system says of a place that a person named, and what would be right."""


class _Help(argparse.HelpFormatter):
    """Wraps descriptions, and leaves the lines of examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLES) else super()._fill_text(text, width, indent)


def command_parser(prog: str, description: str, examples: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser of a command, whose help ends with examples.

    Args:
        prog: how the command was called, such as ``cfamc tune``.
        description: what it does.
        examples: the words after `prog`, and what they do.
    """
    lines = [line for words, what in examples.items() for line in (f"  {what}:", f"    {prog} {words}".rstrip())]
    epilog = "\n".join([EXAMPLES, *lines])
    return argparse.ArgumentParser(prog=prog, description=description, epilog=epilog, formatter_class=_Help)


def exit_code(command: Callable[[], int]) -> int:
    """Run a command; 2 for bad input, whose message is printed without a traceback.

    Ctrl-C, SIGTERM and SIGHUP end it alike, with 130, 143 and 129.
    """
    with command_process():
        try:
            code = command()
        except InputError as error:
            print(error, file=sys.stderr)
            return 2
        except Exception as error:
            if not (problem := _of_place(error)):
                raise
            print(problem, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("Interrupted", file=sys.stderr)
            code = INTERRUPTED
        return exit_code_of_interruption() if code == INTERRUPTED else code


def _of_place(error: Exception) -> str:
    """What is wrong with a place that a person named, or with its disk; empty for an error of another kind."""
    place = getattr(error, "filename", None)
    if is_disk_full(error):
        return f"{place or error}: there is no room on its disk; make some, then re-run the command"
    if place and isinstance(error, OSError) and error.errno in OF_PLACES:
        return f"{place}: {error.strerror}; {OF_PLACES[error.errno]}"
    return ""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes a file or folder that a person named.

    Raises:
        InputError: where it cannot be written, or has no format that can be.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise error if isinstance(error, InputError) else InputError(f"{path}: cannot be written ({error})") from None


def add_run_options(parser: argparse.ArgumentParser, *, run: str, source: str, verbose: str) -> None:
    """The options of every command that trains.

    Args:
        parser: of the command.
        run: what a run is called.
        source: what it is made from, whose keys can be overridden.
        verbose: what ``--verbose`` adds.
    """
    parser.set_defaults(prog=parser.prog)
    parser.add_argument(
        "--out", type=_folder, default=Path("runs"), metavar="DIR", help="folder that runs lie in (runs)"
    )
    parser.add_argument(
        "--mirror",
        metavar="URI",
        help="keep a copy in an object store (s3://…), and start from it where the folder is empty",
    )
    parser.add_argument("--address", metavar="auto|HOST:PORT", help="a running Ray cluster to use")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help=f"override a key of the {source}",
    )
    parser.add_argument("--dry-run", action="store_true", help=f"print the resolved {run} and its cost, train nothing")
    add_detail_options(parser, verbose=verbose)


def _folder(text: str) -> Path:
    try:
        return runs_folder(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_costs_option(parser: argparse.ArgumentParser) -> None:
    """``--costs`` of a command that runs many trials."""
    parser.add_argument(
        "--costs", type=Path, metavar="RUN", help="a scaling study, whose models of time and memory are used"
    )


def command_line(words: Sequence[str], arguments: argparse.Namespace) -> str:
    """The command that resumes a run, as it can be typed here: ``cfamc VERB …`` or ``python -m MODULE …`` as before.

    Args:
        words: its own options; those of `add_run_options` but ``--out``, and ``--costs``, follow.
        arguments: as they were given.
    """
    given = {"--costs": getattr(arguments, "costs", None), "--mirror": arguments.mirror, "--address": arguments.address}
    options = [word for name, value in given.items() if value for word in (name, str(value))]
    overrides = [word for override in arguments.overrides for word in ("--set", override)]
    typed: list[str] = []
    for word in [*words, *options, *detail_words(arguments.detail), *overrides]:
        if word.startswith("-") and not word.startswith("--"):  # a value that would be taken for an option
            typed[-1] += f"={word}"
        else:
            typed.append(word)
    name, *rest = arguments.prog.split()
    return shlex.join([program(name), *rest, *typed])


def expected_cost(costs: CostModel, sample: Sequence[TrialConfig], *, trials: int, at_once: int) -> str:
    """The expected time and memory of a dry run, from models that a scaling study has fitted.

    Args:
        costs: the models.
        sample: trials that stand for all.
        trials: how many there will be.
        at_once: how many of them run at once.
    """
    seconds = [costs.seconds(trial) or 0.0 for trial in sample]
    memory = max(costs.memory_bytes(trial) or 0.0 for trial in sample)
    mean = sum(seconds) / len(seconds)
    each = format_seconds(mean)
    if len(sample) > 1:
        each += f" ({format_seconds(min(seconds))} to {format_seconds(max(seconds))})"
    return (
        f"# as measured on such workers: {each} a trial, {format_seconds(mean * trials / at_once)} in all, up to "
        f"{format_count(memory)}B of memory a worker"
    )


def program(name: str) -> str:
    """A program of this Python's environment as it can be typed here, whether the environment is active or not."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        return name
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def strengths_table(
    attack: AttackConfig, epsilon: float, norm: Norm, points: Iterable[tuple[float | None, float, float]]
) -> str:
    """The accuracies of a head by its L2 strength, as text.

    Args:
        attack: attack that defines robust accuracy.
        epsilon: radius of its ball.
        norm: norm of the ball.
        points: L2 strength, clean and robust accuracy; None for a strength that is unknown.
    """
    table = Table("L2", box=None, pad_edge=False)
    for name in ("clean", f"{attack.label} at {format_radius(epsilon, norm)}"):
        table.add_column(name, justify="right", no_wrap=True)
    for l2, *accuracies in points:
        table.add_row(MISSING if l2 is None else f"{l2:g}", *(format_quantity("fraction", each) for each in accuracies))
    return whole_table(table)


def whole_table(table: Table) -> str:
    """A table as wide as it needs to be: a narrow terminal wraps its lines, and no column is cut."""
    console = Console(width=1000, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
