"""What is known of metrics, and that one which a plugin registers works wherever the built-in ones do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_by_hand import row, study
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from cfamc_ray.config.measures import MEASURES
from cfamc_ray.figures.chart import Axis
from cfamc_ray.figures.charts import front_chart, metric_axis
from cfamc_ray.figures.curves import curves_chart
from cfamc_ray.formatting import format_change, format_value
from cfamc_ray.front.front import find_front
from cfamc_ray.front.recommendations import headline
from cfamc_ray.metrics import METRICS, Metric, accuracies, costs, find_metric, objectives, register_metric, results
from cfamc_ray.report.contents import make_report
from cfamc_ray.report.page import write_report
from cfamc_ray.store.records import TrialFolder, read_trials, write_config
from cfamc_ray.store.trial_tables import trials_table
from cfamc_ray.training.tensorboard import TrialEvents

SPREAD = Metric("spread", "spread of the embeddings", "number", "result", "maximize")
UPTAKE = Metric("uptake_bytes", "uptake", "bytes", "cost", "minimize")
FOOLED = Metric("fooled", "share of fooled images", "fraction", "result", "minimize", images="attacked_images")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for metric in (SPREAD, UPTAKE, FOOLED):
        register_metric(metric)
    yield
    for metric in (SPREAD, UPTAKE, FOOLED):
        del METRICS[metric.name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four trials; of the last two, 2 is the better in the fooled share and 3 in the uptake."""
    config = study(objectives={"spread": "maximize", "fooled": "minimize", "uptake_bytes": "minimize"})
    write_config(tmp_path, config)
    values = [(0.1, 0.9, 4e6), (0.2, 0.8, 5e6), (12.5, 0.25, 3e6), (12.5, 0.75, 2e6)]
    for number, (spread, fooled, uptake) in enumerate(values):
        trial = TrialFolder(tmp_path, number)
        trial.open({"crops.views": number + 2, "perturbation.epsilon": 8 / 255})
        metrics = {"spread": spread, "fooled": fooled, "uptake_bytes": uptake, "attacked_images": 100}
        trial.write_rows([row(1, done=True, **metrics)])
    return tmp_path


def test_the_built_in_metrics_are_sorted_by_their_use() -> None:
    registered = {"spread", "uptake_bytes", "fooled", *MEASURES.classes}
    assert [name for name in accuracies() if name not in registered] == ["clean_accuracy", "robust_accuracy"]
    assert [name for name in costs() if name not in registered] == [
        *("crop_passes", "flops", "train_seconds", "eval_seconds", "peak_memory_bytes"),
    ]
    assert set(objectives()) - registered == {
        *("clean_accuracy", "robust_accuracy", "crop_passes", "flops", "peak_memory_bytes"),
    }
    assert {name for name, metric in METRICS.items() if metric.planned} == {"crop_passes", "flops"}
    assert "fooled" in results()
    assert "fooled" not in accuracies(), "its error is not one minus its value"


def test_an_unknown_metric_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="there is no metric 'sprad'; did you mean spread"):
        find_metric("sprad")
    with pytest.raises(ValueError, match="no trial reports 'fooledd'; did you mean fooled"):
        study(objectives={"fooledd": "minimize"})


def test_another_metric_under_a_known_name_is_refused_and_the_same_is_not() -> None:
    assert register_metric(Metric("spread", "spread of the embeddings", "number", "result", "maximize")) == SPREAD
    with pytest.raises(ValueError, match="there is a metric 'spread' already"):
        register_metric(Metric("spread", "spread", "number", "result", "maximize"))


def test_a_result_needs_a_direction_and_no_plugin_knows_a_cost_before_a_trial_runs() -> None:
    with pytest.raises(ValueError, match="a result needs a direction"):
        Metric("depth", "depth", "count", "result")
    with pytest.raises(ValueError, match="only crop passes and FLOPs are known before"):
        register_metric(Metric("depth", "depth", "count", "cost", "minimize", planned=True))
    assert "depth" not in METRICS


def test_it_is_written_in_its_unit() -> None:
    assert format_value("uptake_bytes", 2e6) == "2M"
    assert format_value("fooled", 0.25) == "25.0%"
    assert format_value("spread", 12.5) == "12.5"
    assert format_change("fooled", -0.012) == "-1.2 points"
    assert format_change("spread", 1.5) == "+1.5"


def test_it_is_an_objective_in_its_direction(folder: Path) -> None:
    config = study(objectives={"spread": "maximize", "fooled": "minimize", "uptake_bytes": "minimize"})
    front = find_front(config, read_trials(folder))
    assert [record.number for record in front.members] == [2, 3]
    assert headline(config) == "spread", "the first result"


def test_it_has_columns_and_axes(folder: Path) -> None:
    config = study(objectives={"spread": "maximize"})
    table = trials_table(config, read_trials(folder))
    shown = dict(zip(table.headings(), table.shown()[3], strict=True))
    assert (shown["spread of the embeddings"], shown["uptake"]) == ("12.5", "2M")
    assert metric_axis("fooled", {"fooled": "minimize"}) == Axis("share of fooled images (minimize)", "fraction")
    panel = front_chart(find_front(config, read_trials(folder)), title="").panels[0]
    assert panel.x == Axis("spread of the embeddings (maximize)", "number")
    curves = curves_chart(read_trials(folder), []).panels
    assert [curve.y.label for curve in curves][2:] == ["spread of the embeddings", "share of fooled images"]
    assert all(curve.marks for curve in curves)


def test_the_report_speaks_of_it(folder: Path) -> None:
    sentences = make_report(folder).sentences
    assert "Best spread of the embeddings: trial 2, with spread of the embeddings 12.5, " in sentences[1]
    assert "Lowest share of fooled images: trial 2" in sentences[2]
    assert "Lowest uptake: trial 3" in sentences[3]
    assert "uptake 2M" in sentences[3]
    page = write_report(folder).read_text()
    assert "share of fooled images" in page


def test_tensorboard_shows_it(tmp_path: Path) -> None:
    events = TrialEvents(tmp_path, {}, earlier=[], loss_terms=["spread", "rate"])
    events.write({"epoch": 1, "done": True, "spread": 2.0, "rate": 3.0, "fooled": None})
    events.close()
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert set(accumulator.Tags()["scalars"]) == {"metrics/spread of the embeddings", "loss/rate"}
