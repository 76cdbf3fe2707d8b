"""The result of an evaluation, its file, and the published results for comparison."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cfamc_ray.config.data import DataConfig
from cfamc_ray.config.digests import digest_of
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.protocol import ProtocolConfig
from cfamc_ray.config.recipes import PublishedRow, read_recipe
from cfamc_ray.config.trial import without_paths
from cfamc_ray.evaluation.measurement import MeanAccuracy, Measurement, means_of
from cfamc_ray.host.files import write_text
from cfamc_ray.lifecycle.evaluation_plan import Run

if TYPE_CHECKING:
    import pandas as pd

    from cfamc_ray.evaluation.operating_points import OperatingPoint

L2Origin = Literal["held_out", "run", "protocol"]
"""Where the L2 strength of a head comes from: chosen on held-out training images, the run's `evaluation.head.l2`, or
the protocol's `head.l2`."""


@dataclass(frozen=True)
class Strength:
    """L2 strength of a head that is fitted to convergence."""

    l2: float
    origin: L2Origin
    points: Sequence["OperatingPoint"] = ()
    """Accuracies of all strengths on held-out training images; empty if none was chosen there."""

    @classmethod
    def of(cls, run: Run, protocol: ProtocolConfig, points: Sequence["OperatingPoint"]) -> "Strength | None":
        """The strength of a protocol's head; None if the head has none, or if the evaluation ended before its choice.

        Args:
            run: evaluated run.
            protocol: protocol of the evaluation.
            points: operating points on held-out training images, empty if none were measured.
        """
        from cfamc_ray.evaluation.operating_points import balanced  # noqa: PLC0415 (torch is slow to import)

        if points:
            return cls(balanced(points).l2, "held_out", points)
        if protocol.head.fit != "converged" or protocol.head.selects_l2:
            return None
        (l2,) = protocol.head.l2
        return cls(l2, "run" if l2 == run.l2 else "protocol")

    def record(self) -> dict[str, Any]:
        """The strength as JSON values, for a file."""
        return {"l2": self.l2, "origin": self.origin, "operating_points": [asdict(point) for point in self.points]}


@dataclass(frozen=True)
class Evaluation:
    """The result of a protocol for a run."""

    run: Run
    """The evaluated run."""
    data: DataConfig
    """Images on which the head was fitted and attacked."""
    measured: Sequence[Measurement]
    """Measurements of each draw of few labels: clean, then each corruption, then each radius, attack by attack."""
    strength: Strength | None
    """L2 strength of the head; None for a head that is not fitted to convergence."""
    problem: str
    """Reason why the result cannot be trusted; empty if it can."""
    record: Mapping[str, Any]
    """Every setting, the results, and device and environment, as in the file at `path`."""
    path: Path
    """The JSON file of the record."""
    seconds: float
    """Unrounded duration of the evaluation in seconds."""

    @property
    def means(self) -> list[MeanAccuracy]:
        """Accuracies in the order of `measured`, each the mean over the draws of few labels."""
        return means_of(self.measured)

    @property
    def results(self) -> "pd.DataFrame":
        """A row per attack and radius and per corruption and severity.

        The columns are what was measured, the number of images, the accuracy as a fraction and its 95 % interval; with
        few labels the accuracy is the mean over `draws`, and `spread` their standard deviation.
        """
        import pandas as pd  # noqa: PLC0415 (slow to import)

        names = ["attack", "label", "norm", "epsilon", "corruption", "severity", "images"]
        rows = [
            {name: getattr(each.of, name) for name in names}
            | {"accuracy": each.mean, "low": each.interval[0], "high": each.interval[1]}
            | {"spread": each.spread, "draws": len(each.accuracies)}
            for each in self.means
        ]
        return pd.DataFrame(rows, columns=[*names, "accuracy", "low", "high", "spread", "draws"])

    @property
    def corruptions(self) -> "pd.DataFrame":
        """Accuracies as fractions: a row per corruption and one of their mean, a column per severity and their mean.

        Empty if nothing was corrupted. The mean of all, in the last row and column, is the mean corruption accuracy.
        """
        import pandas as pd  # noqa: PLC0415 (slow to import)

        found = {(each.of.corruption, each.of.severity): each.mean for each in self.means if each.of.corruption}
        if not found:
            return pd.DataFrame()
        table = pd.Series(found).unstack(sort=False)
        table["mean"] = table.mean(axis=1)
        table.loc["mean"] = table.mean()
        return table

    @property
    def curve(self) -> "pd.DataFrame":
        """A row per L2 strength: its accuracies as fractions on held-out training images, and whether it was chosen.

        Robust accuracy is that under the default attack of a search, at the first radius. The probe's accuracy is on
        the images on which it was fitted. Empty if no strength was chosen.
        """
        import pandas as pd  # noqa: PLC0415 (slow to import)

        columns = ["l2", "clean_accuracy", "robust_accuracy", "probe_accuracy", "chosen"]
        points = self.strength.points if self.strength else ()
        rows = [{**asdict(point), "chosen": self.strength and point.l2 == self.strength.l2} for point in points]
        return pd.DataFrame(rows, columns=columns)

    def _repr_html_(self) -> str:
        problem = f"<p>Not to be trusted: {html.escape(self.problem)}</p>" if self.problem else ""
        name = f"{self.run.name}: {self.record['protocol']['name']} on {self.data.location or self.data.name}"
        tables = "".join(table.to_html(index=False) for table in (self.curve, self.results) if len(table))
        corrupted = self.corruptions.to_html() if len(self.corruptions) else ""
        return f"<h3>{html.escape(name)}</h3>{problem}{tables}{corrupted}"

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
    """Every setting on which a result depends, as in the record; of images at a path also their digest."""
    from cfamc_ray.data.content import content_digest  # noqa: PLC0415 (torch is slow to import)

    located = {"images": content_digest(data)} if data.location else {}
    return {
        "run": run.name,
        "encoder": "untrained" if run.encoder is None else str(run.encoder),
        "trial": run.trial.model_dump(mode="json"),
        "data": data.model_dump(mode="json"),
        **located,
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
    return run.folder / "evaluations" / f"{settings['protocol']['name']}-{digest_of(identity, digits=8)}.json"


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
