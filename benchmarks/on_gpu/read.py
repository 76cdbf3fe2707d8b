"""Make a result of this repository from what `run` left, and show it in docs/results.md.

    python -m benchmarks.on_gpu.read FOLDER … [--results FOLDER] [--page docs/results.md] [--after "## Measured"]

Writes gpu_CARD_PLAN.json into the results, and a table between the page's lines `gpu results: begin` and `end`, which
are put under a heading where they are missing. Of several folders of one card, each part is taken from the last in
which it was done.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.on_gpu.run import PAPER_PASSES, PUBLISHED, SMALL, SPEEDS
from cfamc_ray.cli.command import exit_code
from cfamc_ray.config.errors import InputError
from cfamc_ray.host.files import write_text

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- gpu results: begin -->", "<!-- gpu results: end -->"
Entry = Mapping[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of results")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="where the file goes")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md", help="where the table goes")
    parser.add_argument("--after", default="## Measured", metavar="HEADING", help="where it goes the first time")
    chosen = parser.parse_args(argv)
    return exit_code(lambda: publish(chosen.folders, chosen.results, chosen.page, chosen.after))


def publish(folders: Sequence[Path], results: Path, page: Path, heading: str) -> int:
    """Write the file and the table; 0.

    Raises:
        InputError: where the folders hold no measurement or are of several cards, or the page has neither the lines nor
            the heading.
    """
    found = merged([read_parts(folder) for folder in folders])
    name = re.sub(r"[^a-z0-9]+", "_", f"gpu {found['device']} {found['plan']}".lower()).strip("_")
    file = results / f"{name}.json"
    text = with_block(page.read_text(encoding="utf-8"), block(found, file.name), heading)
    write_text(file, json.dumps(found, indent=1) + "\n")
    write_text(page, text)
    print(f"{file} and the table of {page} are written")
    return 0


def read_parts(folder: Path) -> dict[str, Any]:
    """What was found, with the card, versions and date of the first measurement.

    Raises:
        InputError: where the folder holds no measurement.
    """
    try:
        entries = [json.loads(line) for line in (folder / "parts.jsonl").read_text(encoding="utf-8").splitlines()]
        parts = {entry.pop("part"): entry for entry in entries}
    except (OSError, ValueError, LookupError) as error:
        raise InputError(f"{folder}: holds no results of benchmarks.on_gpu.run ({error})") from None
    measured = [part["result"] for name, part in parts.items() if name in {**SPEEDS, **SMALL} and part.get("result")]
    if not measured:
        raise InputError(f"{folder}: no part measured the step; log.txt says why")
    first = measured[0]
    plan = parts.get("plan", {}).get("last_line", "")
    return {"device": first["device"], "plan": plan, "environment": first["environment"], "parts": parts}


def merged(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several sessions on one card as one.

    Raises:
        InputError: where they are of several cards.
    """
    if len(cards := {each["device"] for each in found}) > 1:
        raise InputError(f"the folders are of several cards ({', '.join(sorted(cards))}): read each card alone")
    parts: dict[str, Any] = {}
    for each in found:
        done = {name: part for name, part in each["parts"].items() if part["status"] == "done" or name not in parts}
        parts |= done
    return found[-1] | {"parts": parts}


def block(found: Mapping[str, Any], file: str) -> str:
    """The page's lines about a card.

    Args:
        found: as `read_parts` gives it.
        file: of the result.
    """
    versions, date = found["environment"]["versions"], found["environment"]["date"][:10]
    parts: Mapping[str, Entry] = found["parts"]
    reference = (parts.get(PUBLISHED, {}).get("result") or {}).get("reference")
    published = reference["crops_per_s"]["median"] if reference else None
    rows = [
        f"On one {found['device']} with torch {versions['torch']} ({date}; `benchmarks/on_gpu`, {found['plan']}; "
        f"[`{file}`](../benchmarks/results/{file})): the step of the paper's encoder, medians."
        + (f" The published loop in plain PyTorch: {published:,.0f} crop passes a second." if published else ""),
        "",
        "| step | ms a replay | crop passes/s | × published loop | minutes for 2.4e7 | memory, GB |",
        "|---|---|---|---|---|---|",
        *(step_row(name, parts[name], published if name in SPEEDS else None)
          for name in {**SPEEDS, **SMALL} if name in parts),
    ]  # fmt: skip
    if training := trained(parts):
        rows += ["", training]
    return "\n".join([BEGIN, "", *rows, "", END])


def step_row(name: str, part: Entry, published: float | None) -> str:
    """A line of the table.

    Args:
        name: of the part.
        part: what came of it.
        published: crop passes a second of the published loop with the same encoder; None where it is not known.
    """
    label = f"{name} (width 16)" if name in SMALL else name
    result = part.get("result")
    if part["status"] != "done" or result is None:
        return f"| {label} | {part['status'].partition(':')[0]} | – | – | – | – |"
    speed = result["ours"]["crops_per_s"]["median"]
    return (
        f"| {label} | {result['milliseconds_per_replay']['median']:.1f} | {speed:,.0f} | "
        f"{f'{speed / published:.2f}' if published else '–'} | {PAPER_PASSES / speed / 60:.1f} | "
        f"{result['peak_memory_bytes'] / 1e9:.1f} |"
    )


def trained(parts: Mapping[str, Entry]) -> str:
    """A sentence on the training run and its accuracies; empty without a finished one."""
    training, evaluation = (parts.get(name, {}) for name in ("training", "evaluation"))
    if training.get("status") != "done" or not evaluation.get("result"):
        return ""
    row, record = training["result"][-1], evaluation["result"]
    data = record["trial"]["data"]
    measured = [
        f"{100 * each['accuracy']:.1f} % {'clean' if not each['epsilon'] else under(each)} (n={each['images']:,})"
        for each in record["results"]
    ]
    return (
        f"`cf-amc-ssl`, published, {row['epoch']} epochs of {data['pretrain_images']:,} images of CIFAR-10 "
        f"({row['crop_passes']:,} crop passes, {row['train_seconds'] / 60:.1f} minutes): {', '.join(measured)}."
    )


def under(measured: Mapping[str, Any]) -> str:
    """An attack and its radius."""
    return f"under {measured['label']} at {measured['epsilon'] * 255:g}/255"


def with_block(text: str, lines: str, heading: str) -> str:
    """A page with the lines in place of the old ones, or under the heading.

    Raises:
        InputError: where it has neither.
    """
    old = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if old.search(text):
        return old.sub(lambda _: lines, text, count=1)
    found = re.search(rf"^{re.escape(heading)}\n\n", text, re.MULTILINE)
    if found is None:
        raise InputError(f"--after {heading}: the page has no such heading; name one as it stands there")
    return text[: found.end()] + lines + "\n\n" + text[found.end() :]


if __name__ == "__main__":
    sys.exit(main())
