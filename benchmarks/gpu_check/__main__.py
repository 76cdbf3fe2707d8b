"""Run trials and evaluations on a GPU that is not there; exit code 1 where a real one would fail, or wait for the host.

    python -m benchmarks.gpu_check [--recipe NAME] [--set KEY=VALUE] [--json FILE]

Every recipe in both variants (those that do the same on the device as one), what no recipe has, and evaluations, at
their real sizes; nothing is computed. It fails where tensors of two devices meet, where a kernel would refuse its
arguments, and where the host waits for the device inside the loop over minibatches, the loop over an attack's steps, or
the loop over minibatches of a head. Waits elsewhere are listed.

The table counts what the device does for one pass over a minibatch (a replay, or a pass of a separate attack), crops
and optimizer included: operations, bytes read and written, as if no cache held anything, and FLOP of matrix products.
`ms` is a lower bound, for the comparison of two versions of the code: each operation takes the longer of its bytes at
3.0 TB/s and its FLOP at 800 TFLOP/s in bfloat16 or 50 TFLOP/s in float32 (H100), and its launch nothing. Cases other
than the paper's recipe, or all but a named one, are cut to a minibatch of two passes, in which crops weigh more.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.cases import BYTES_PER_SECOND, FLOPS_PER_SECOND, Case, Found, all_cases, run
from benchmarks.gpu_check.recorder import PHASES
from cfamc_ray.cli.command import exit_code, writing
from cfamc_ray.store.environment import environment

HEADER = f"{'case':50} {'operations':>10} {'GB read':>8} {'written':>8} {'TFLOP':>7} {'ms':>7}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, print; 0 where all cases pass, 1 where one fails, 2 for bad input."""
    options = argparse.ArgumentParser(
        "python -m benchmarks.gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--recipe", metavar="NAME", help="only this one, in both variants")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the trials")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, by phase, too")
    chosen = options.parse_args(arguments)
    return exit_code(lambda: check(all_cases(chosen.recipe, chosen.set), chosen.json))


def check(cases: dict[str, Case], file: Path | None = None) -> int:
    """Run cases and say what was found; 0 where all pass, else 1."""
    found: dict[str, Found] = {}
    print(HEADER)
    for name, case in cases.items():
        found[name] = run(case)
        print(_row(name, case, found[name]), *(f"  FAILED {each}" for each in found[name].failures), sep="\n")
    waits = sum((each.waits(inside=False) for each in found.values()), Counter[str]())
    print("The host also waits where it may:", *(f"  {what}" for what in sorted(waits)), sep="\n")
    failed = [name for name, each in found.items() if each.failures]
    print(f"{len(found) - len(failed)} of {len(found)} cases pass" + "".join(f"; {name} fails" for name in failed))
    if file is not None:
        with writing(file):
            file.write_text(json.dumps(_as_json(cases, found), indent=1) + "\n")
    return 1 if failed else 0


def _row(name: str, case: Case, found: Found) -> str:
    if case.evaluation is not None or found.problem:
        return name
    work = found.work(case.passes)
    sizes = f"{work.read_bytes / 1e9:8.2f} {work.written_bytes / 1e9:8.2f} {work.flops / 1e12:7.2f}"
    return f"{name:50} {work.operations:10.0f} {sizes} {work.ms:7.1f}"


def _as_json(cases: dict[str, Case], found: dict[str, Found]) -> dict[str, Any]:
    return {
        "cases": {
            name: {
                "failures": each.failures,
                "waits": each.waits(inside=False),
                "pass": each.work(cases[name].passes)._asdict(),
                "phases": {
                    phase or "other": each.work(cases[name].passes, phase=phase)._asdict() for phase in (*PHASES, "")
                },
            }
            for name, each in found.items()
        },
        "bytes_per_second": BYTES_PER_SECOND,
        "flops_per_second": {str(dtype).removeprefix("torch."): rate for dtype, rate in FLOPS_PER_SECOND.items()},
        "environment": environment(),
    }


if __name__ == "__main__":
    sys.exit(main())
