"""Export a study for others, as a folder or a zip: cfamc export runs/STUDY [--out FILE]."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from cfamc_ray.cli.command import command_parser, exit_code, writing
from cfamc_ray.lifecycle.checks import warn_of_damage
from cfamc_ray.lifecycle.export import Encoders, export_study


def main(argv: Sequence[str] | None = None, *, prog: str = "cfamc export") -> int:
    """Read and copy; the exit code is 2 for bad input."""
    arguments = build_parser(prog).parse_args(argv)
    out = arguments.out or Path(f"{arguments.study.resolve().name}.zip")
    return exit_code(lambda: _export(arguments.study, out, arguments.encoders, onnx=arguments.onnx))


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "Write a copy of a study that others can open, extend and cite: config, records, tables, report, encoders of "
        "its front, a card that describes it, and checksums; without paths of this machine.",
        {
            "runs/quickstart": "as quickstart.zip",
            "runs/quickstart --out shared/quickstart": "as a folder",
            "runs/quickstart --encoders none": "without weights",
            "runs/quickstart --onnx": "with its encoders and classifiers as ONNX files, too",
        },
    )
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument("--out", type=Path, metavar="PATH", help="new .zip file, or new folder (STUDY.zip)")
    parser.add_argument(
        "--encoders", choices=get_args(Encoders), default="front", help="whose encoders to copy (front)"
    )
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="write the copied encoders, and a classifier for each point of the front, as ONNX files, too (extra onnx)",
    )
    return parser


def _export(study: Path, out: Path, encoders: Encoders, *, onnx: bool) -> int:
    warn_of_damage(study)
    with writing(out):
        files = export_study(study, out, encoders=encoders, onnx=onnx)
    weights = sum(file.name == "encoder.safetensors" for file in files)
    print(f"{len(files)} files, {weights} encoders: {out}")
    return 0
