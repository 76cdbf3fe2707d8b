"""The result of an evaluation, its file, and the published results for comparison."""

import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfamc_ray.config.data import DataConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.protocol import ProtocolConfig
from cfamc_ray.config.recipes import PublishedRow, read_recipe
from cfamc_ray.config.trial import without_paths
from cfamc_ray.host.files import write_text
from cfamc_ray.lifecycle.evaluation_plan import Run

if TYPE_CHECKING:
    import pandas as pd

    from cfamc_ray.evaluation.measurement import Measurement


@dataclass(frozen=True)
class Evaluation:
    """The result of a protocol for a run."""

    run: Run
    data: DataConfig
    measured: Sequence["Measurement"]
    """Measurements: first without an attack, then for each radius, attack by attack."""
    problem: str
    """Reason why the result cannot be trusted; empty if it can."""
    record: Mapping[str, Any]
    """Every setting, the results, and device and environment, as in the file at `path`."""
    path: Path
    seconds: float
    """Unrounded duration of the evaluation in seconds."""

    @property
    def results(self) -> "pd.DataFrame":
        """A row per attack and radius: its id and label, images, accuracy as a fraction, and its 95 % interval."""
        import pandas as pd  # noqa: PLC0415 (slow to import)

        columns = ["attack", "label", "epsilon", "images", "accuracy", "low", "high"]
        rows = [(f.attack, f.label, f.epsilon, f.images, f.accuracy, *f.interval) for f in self.measured]
        return pd.DataFrame(rows, columns=columns)

    def _repr_html_(self) -> str:
        problem = f"<p>Not to be trusted: {html.escape(self.problem)}</p>" if self.problem else ""
        name = f"{self.run.name}: {self.record['protocol']['name']} on {self.data.location or self.data.name}"
        return f"<h3>{html.escape(name)}</h3>{problem}{self.results.to_html(index=False)}"

    def write(self) -> None:
        """Write the record.

        Raises:
            InputError: if it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(self.record, indent=1) + "\n")
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); name another file with --out"
            ) from None


def identity_of(run: Run, data: DataConfig, protocol: ProtocolConfig) -> dict[str, Any]:
    """Every setting on which a result depends, as in the record."""
    return {
        "run": run.name,
        "encoder": "untrained" if run.encoder is None else str(run.encoder),
        "trial": run.trial.model_dump(mode="json"),
        "data": data.model_dump(mode="json"),
        "protocol": protocol.model_dump(mode="json"),
    }


def record_path(run: Run, settings: dict[str, Any]) -> Path:
    """Default path of a record: equal for equal settings, wherever the images lie.

    Args:
        run: evaluated run.
        settings: settings from `identity_of`.
    """
    unplaced = {"encoder": run.encoder is not None, "trial": without_paths(run.trial.model_dump(mode="json"))}
    identity = settings | unplaced | without_paths({"data": settings["data"]})
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return run.folder / "evaluations" / f"{settings['protocol']['name']}-{digest}.json"


def published(run: Run, data: DataConfig) -> dict[str, Any] | None:
    """The published row of the run's recipe on the same data set, in percent."""
    row = published_row(run, data)
    return None if row is None else {"recipe": run.recipe, **dict(zip(("clean", "4/255", "8/255"), row, strict=True))}


def published_row(run: Run, data: DataConfig) -> PublishedRow | None:
    """Published accuracies in percent; None if there are none for this data set."""
    if run.recipe is None or run.encoder is None or data.name != run.trial.data.name:
        return None
    published = read_recipe(run.recipe).published
    rows = {"cifar10": published.cifar10, "cifar100": published.cifar100} if published else {}
    return rows.get(data.name)
