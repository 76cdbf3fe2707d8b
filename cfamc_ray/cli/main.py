"""The console script: ``cfamc VERB …`` runs one command, and imports that command's module only."""

import sys
from collections.abc import Sequence
from importlib import import_module

from cfamc_ray.config.errors import unknown
from cfamc_ray.host.process import lasting_streams

VERBS = {
    "tune": ("cfamc_ray.tune", "search a space for the front of its objectives"),
    "train": ("cfamc_ray.train", "train one configuration: a recipe, or a trial of a study"),
    "evaluate": ("cfamc_ray.evaluate", "attack a trained encoder on the test split, by a protocol"),
    "scale": ("cfamc_ray.scale", "measure and fit how time, memory and error grow"),
    "status": ("cfamc_ray.cli.status", "show how far a study is, while it runs or after it"),
    "recipes": ("cfamc_ray.cli.recipes", "list the published systems, or print the keys of one"),
    "report": ("cfamc_ray.cli.report", "write the report of a study, finished or running"),
    "export": ("cfamc_ray.cli.export", "copy a study for others, with its encoders, a card and checksums"),
    "front": ("cfamc_ray.cli.front", "draw the front of a study"),
    "interpolate": ("cfamc_ray.cli.interpolate", "make encoders between trials that share their first epochs"),
    "compare": ("cfamc_ray.cli.compare", "compare the fronts of several studies"),
    "effects": ("cfamc_ray.cli.effects", "show which key moves which objective"),
    "scaling": ("cfamc_ray.cli.scaling", "fit and draw what a scaling study has measured"),
    "completion": ("cfamc_ray.cli.completion", "print a script by which bash, zsh or fish completes"),
}
"""Module and summary of each verb. A module has ``main(argv, prog=...)``, which returns the exit code, and
``build_parser(prog)``, which returns the parser of its options."""
USAGE = "usage: cfamc VERB [OPTIONS]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        argv: the verb and its options; those of the process unless given.

    Returns:
        the verb's exit code; 2 without a verb, or for one that does not exist.
    """
    verb, *words = (sys.argv[1:] if argv is None else argv) or [""]
    with lasting_streams():
        if verb in VERBS:
            code: int = import_module(VERBS[verb][0]).main(words, prog=f"cfamc {verb}")
            return code
        if verb in ("-h", "--help"):
            print(_help())
            return 0
        print(f"{USAGE}\ncfamc: {_refusal(verb)}", file=sys.stderr)
        return 2


def _help() -> str:
    lines = [f"  {verb:<11} {summary}" for verb, (_, summary) in VERBS.items()]
    return "\n".join([USAGE, "", *lines, "", "cfamc VERB --help lists the options of a verb."])


def _refusal(verb: str) -> str:
    if not verb:
        return "name a verb; cfamc --help explains each: " + ", ".join(VERBS)
    return unknown("verb", verb, VERBS)


if __name__ == "__main__":
    sys.exit(main())
