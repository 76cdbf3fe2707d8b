"""List the recipes, or print the keys of one: cfamc recipes [NAME] [--variant published]."""

import argparse
from collections.abc import Sequence

from rich.table import Table

from cfamc_ray.cli.command import command_parser, exit_code, whole_table
from cfamc_ray.config.recipes import VARIANTS, PublishedRow, Variant, read_recipe, recipe_names
from cfamc_ray.config.yaml12 import dump_yaml
from cfamc_ray.formatting import MISSING


def main(argv: Sequence[str] | None = None, *, prog: str = "cfamc recipes") -> int:
    """Read and print; the exit code is 2 for bad input."""
    arguments = build_parser(prog).parse_args(argv)
    variant: Variant = arguments.variant
    return exit_code(lambda: _print_recipe(arguments.recipe, variant) if arguments.recipe else print_recipes(variant))


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "List the recipes with their published results and their cost, or print the keys of one.",
        {
            "": "all recipes",
            "cf-amc-ssl": "every key of one, as in a space file under trial",
            "cf-amc-ssl --variant published": "with every undocumented choice of the published code",
        },
    )
    parser.add_argument("recipe", nargs="?", metavar="NAME", help="recipe whose keys are printed")
    parser.add_argument("--variant", choices=VARIANTS, default=VARIANTS[0], help="corrected, or published as released")
    return parser


def _print_recipe(name: str, variant: Variant) -> int:
    recipe = read_recipe(name)
    print(f"# {recipe.summary}")
    print(dump_yaml({"trial": recipe.trial(variant).model_dump(mode="json")}), end="")
    return 0


def print_recipes(variant: Variant) -> int:
    """Print a table of all recipes; their cost is that of a variant."""
    from cfamc_ray.cost.work import training_flops  # noqa: PLC0415 (torch is slow to import)

    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    columns = ("CIFAR-10", "CIFAR-100", "minutes", "crop passes", "PFLOP")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("description", no_wrap=True)
    for name in recipe_names():
        recipe = read_recipe(name)
        trial, published = recipe.trial(variant), recipe.published
        cells = (
            _published_row(published.cifar10) if published else MISSING,
            _published_row(published.cifar100) if published else MISSING,
            f"{published.minutes:g}" if published else MISSING,
            f"{trial.crop_passes:.3g}",
            f"{training_flops(trial) / 1e15:.3g}",
        )
        table.add_row(name, *cells, recipe.summary)
    print(whole_table(table))
    print("\nAccuracies in % as published: clean / under PGD at 4/255 / at 8/255; minutes on a GPU that is not named.")
    print(f"Crop passes and FLOPs of the variant {variant}, evaluation not counted.")
    return 0


def _published_row(row: PublishedRow) -> str:
    return " / ".join(f"{value:g}" for value in row)
