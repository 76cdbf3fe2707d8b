"""Print a script by which a shell completes what follows cfamc: cfamc completion bash|zsh|fish.

The script holds the verbs, options and values of this version, so that a shell completes without starting Python.
"""

import argparse
from collections.abc import Mapping, Sequence
from importlib import import_module

import shtab

from cfamc_ray.cli.command import command_parser
from cfamc_ray.cli.main import VERBS
from cfamc_ray.config.reading import space_names
from cfamc_ray.config.recipes import recipe_names

SHELLS = ("bash", "zsh", "fish")
FOLDERS = ("costs", "run", "studies", "study", "trial", "warm_start")
"""Arguments that name the folder of a study, a run or a trial."""


def main(argv: Sequence[str] | None = None, *, prog: str = "cfamc completion") -> int:
    """Print the script; the exit code is 0."""
    arguments = build_parser(prog).parse_args(argv)
    print(shtab.complete(all_verbs(), arguments.shell))
    return 0


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "Print a script by which a shell completes verbs, options, choices, given spaces, recipes, files and folders.",
        {
            "bash": "save it as ~/.cfamc-completion, and write in .bashrc: source ~/.cfamc-completion",
            "zsh": "save it as _cfamc in a folder of $fpath",
            "fish": "save it as ~/.config/fish/completions/cfamc.fish",
        },
    )
    parser.add_argument("shell", choices=SHELLS, help="shell that reads the script")
    return parser


def all_verbs() -> argparse.ArgumentParser:
    """One parser with every verb, whose arguments have what completes them; it is read by shtab and parses nothing."""
    completed = {**dict.fromkeys(FOLDERS, shtab.DIRECTORY), "out": shtab.FILE, "space": _space_files()}
    parser = argparse.ArgumentParser("cfamc")
    verbs = parser.add_subparsers()
    for verb, (module, summary) in VERBS.items():
        parent = import_module(module).build_parser(f"cfamc {verb}")
        verbs.add_parser(verb, help=summary, parents=[parent], add_help=False)
        for action in parent._actions:
            if action.dest in completed:
                action.complete = completed[action.dest]
            elif action.dest == "recipe":
                action.choices = recipe_names()
    return parser


def _space_files() -> Mapping[str, object]:
    """What completes a space: the names of the given ones, and YAML files."""
    given, name = " ".join(space_names()), "_cfamc_glob_spaces"  # "glob": shtab's bash then ends a folder with a slash
    bash = f'compgen -W \'{given}\' -- "$1"; compgen -f -X \'!*.yaml\' -- "$1"; compgen -d -- "$1"'
    zsh = f"_alternative 'given:given space:({given})' 'files:file:_files -g \"*.yaml\"'"
    fish = f"printf '%s\\n' {given}; __fish_complete_suffix .yaml"
    preamble = {"bash": f"{name}() {{ {bash}; }}", "zsh": f"{name}() {{ {zsh}; }}"}
    return {"bash": name, "zsh": name, "fish": f"({fish})", "preamble": preamble}
