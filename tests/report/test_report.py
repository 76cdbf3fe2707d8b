"""A study's report: what it says, that it comes out of broken studies too, and how it looks in a browser."""

import csv
import itertools
import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.figures.chart import Chart
from cfamc_ray.report.contents import make_report
from cfamc_ray.report.page import render, write_report
from cfamc_ray.space.reading import read_study
from cfamc_ray.store.records import TrialFolder, read_trials, write_config
from cfamc_ray.train import main as train

SPACE = {
    "crops.views": {"int": [2, 32], "log": True},
    "pretraining.epochs": {"int": [1, 4]},
    "encoder.norm": {"choice": ["batch", "group"]},
}
STUDIES = Path(__file__).parents[2] / "benchmarks" / "results" / "studies"
"""What real studies left in their folders, without weights."""


def rows(epochs: int, clean: float | None, robust: float | None, *, done: bool = True) -> list[dict[str, Any]]:
    """Of a trial that ends with these accuracies."""
    return [
        {
            "epoch": epoch,
            "done": done and epoch == epochs,
            "clean_accuracy": clean and clean * epoch / epochs,
            "robust_accuracy": robust and robust * epoch / epochs,
            "validation_images": 400,
            "attacked_images": 100,
            "crop_passes": 1000 * epoch,
            "flops": 10**12 * epoch,
            "train_seconds": 60.0 * epoch,
            "eval_seconds": 10.0 * epoch,
            "peak_memory_bytes": 10**9,
        }
        for epoch in range(1, epochs + 1)
    ]


def make(folder: Path, trials: Sequence[tuple[Mapping[str, Any], list[dict[str, Any]]]], **given: Any) -> Path:
    """A study's folder with these trials: their points and rows."""
    folder.mkdir()
    known = {"name": folder.name, "question": "Do more <crops> pay?", "space": SPACE, "budget": {"trials": len(trials)}}
    write_config(folder, StudyConfig.model_validate(known | given))
    for number, (point, metrics) in enumerate(trials):
        trial = TrialFolder(folder, number)
        trial.open(point)
        trial.write_rows(metrics)
    return folder


def point(views: int = 2, epochs: int = 2, norm: str = "batch") -> dict[str, Any]:
    return {"crops.views": views, "pretraining.epochs": epochs, "encoder.norm": norm}


def make_one_of_all(folder: Path) -> Path:
    """12 finished trials in which views make clean and epochs robust, one stopped, one failed, one running."""
    finished = [
        (
            point(views, epochs, "batch" if (views + epochs) % 2 else "group"),
            rows(epochs, 0.3 + 0.01 * views, 0.1 * epochs),
        )
        for views in (2, 8, 32)
        for epochs in (1, 2, 3, 4)
    ]
    begun = [
        (point(4, 4), rows(2, 0.2, 0.1, done=False)),
        (point(5, 4), []),
        (point(6, 4), rows(1, 0.2, 0.1, done=False)),
    ]
    make(folder, [*finished, *begun], budget={"trials": 20})
    TrialFolder(folder, 12).close("stopped", "fell behind")
    TrialFolder(folder, 13).close("failed", "diverged <at once>")
    (folder / "environment.json").write_text(json.dumps({"date": "2026-11-01T10:00:00+00:00", "cores": 2}))
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_one_of_all(tmp_path / "made")


def text_of(page: str) -> str:
    """What a person reads, without Plotly's and our own code."""
    return re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL))


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_it_answers_in_sentences_with_the_trials_numbers(study: Path) -> None:
    sentences = make_report(study).sentences
    assert sentences[0] == ("The study has not ended: 6 of 20 trials are still to come, and what follows may change.")
    assert sentences[1] == "1 of 12 finished trials is on the front."
    assert sentences[2] == (
        "Best clean accuracy: trial 11, with clean accuracy 62.0%, robust accuracy 40.0%, crop passes 4k."
    )
    movers = [sentence for sentence in sentences if sentence.startswith("What moves")]
    assert movers[0].startswith("What moves clean accuracy, the other keys held: crops.views (+")
    assert movers[1].startswith("What moves robust accuracy, the other keys held: pretraining.epochs (+30.0 points")
    # The roots of (p - 0.4)² = 1.96² p (1 - p) / 100.
    assert "40.0% on 100 images has a 95 % interval of 30.9% to 49.8% from the images alone" in sentences[-1]


def test_of_a_resumed_study_it_says_what_changed(study: Path) -> None:
    ended = [f"trial_{number:05}" for number in (7, 12)]
    (study / "environment.json").write_text(
        json.dumps({"date": "2026-11-03T10:00:00+00:00", "begun": "2026-11-01T10:00:00+00:00", "ended_before": ended})
    )
    report = make_report(study)
    assert report.sentences[2] == (
        "Since the study was last resumed, 12 trials have ended; the hypervolume went from 0.152 to 0.248; new on the "
        "front: trial 11; no longer on it: trial 7."
    ), "38 % and 62 % clean times 40 % robust"
    page = render(report)
    assert "begun 2026-11-01 10:00" in page
    assert "ended_before" not in page


def test_what_was_confirmed_takes_the_place_of_what_is_uncertain(study: Path) -> None:
    (study / "confirm.csv").write_text("trial_id,seeds,front_probability\ntrial_00011,3,0.9\ntrial_00007,3,\n")
    report = make_report(study)
    assert report.sentences[-1].startswith("Trained again with 3 fresh seeds and tested on test images, 1 of 2 points")
    assert "confirm" in [table.name for table in report.tables]
    assert not any("±" in sentence for sentence in report.sentences)


def test_one_fresh_seed_says_nothing_of_chance(study: Path) -> None:
    begun = "trial_id,seeds,front_probability,crops.views\ntrial_00011,3,0.9,12344\ntrial_00007,2,1.0,12345\n"
    (study / "confirm.csv").write_text(f"{begun}trial_00006,1,1.0,5\ntrial_00005,0,,5\n")
    report = make_report(study)
    assert report.sentences[-2:] == [
        "Trained again with 2 to 3 fresh seeds and tested on test images, 2 of 2 points belong to the front with a "
        "probability of at least 80 %.",
        "2 points of the confirmation have fewer than 2 tested seeds, which do not tell how much is chance.",
    ]
    (table,) = (table for table in report.tables if table.name == "confirm")
    assert [row[-1] for row in table.shown()] == ["12344", "12345", "5", "5"]


def test_each_recommended_configuration_has_a_command_that_reads_its_trial(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = dict(make_report(study, budget=2000).commands)
    assert set(commands) == {
        "best clean accuracy (trial 11)",
        "best robust accuracy (trial 11)",
        "the knee: nearest to the best of everything (trial 11)",
        "best robust accuracy within 2k crop passes (trial 9)",
    }
    words = shlex.split(commands["best robust accuracy within 2k crop passes (trial 9)"])
    assert words[:2] == ["cfamc", "train"]
    assert train([*words[2:], "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "views: 32" in printed
    assert "epochs: 2" in printed


def test_every_figure_and_table_is_a_file_beside_the_page(study: Path) -> None:
    page = write_report(study)
    folder = page.parent
    charts = ("front", "published", "growth", "importance", "slices", "curves", "spending", "parallel")
    tables = ("recommended", "front", "ladder", "effects", "spending", "ended_early", "trials")
    expected = {f"{name}.{ending}" for name in charts for ending in ("png", "svg")}
    expected |= {f"{name}.{ending}" for name in tables for ending in ("csv", "md", "tex")}
    assert {path.name for path in folder.iterdir()} == expected | {"report.html"}
    assert all((folder / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in charts)
    early = read_table(folder / "ended_early.csv")
    assert [(row["status"], row["reason"]) for row in early] == [
        ("stopped", "fell behind"),
        ("failed", "diverged <at once>"),
    ]
    assert len(read_table(folder / "trials.csv")) == 15
    spent = {row["status"]: row for row in read_table(folder / "spending.csv")}
    assert float(spent["stopped"]["train_seconds"]) == 120
    assert (folder / "front.md").read_text().startswith("| trial id")
    assert r"\begin{tabular}" in (folder / "front.tex").read_text()


@pytest.mark.long
def test_figures_for_a_paper_are_as_wide_as_its_columns(study: Path) -> None:
    folder = write_report(study, paper=True).parent
    for name in ("front", "curves", "parallel"):
        for columns, inches in (("one", 3.35), ("two", 6.9)):
            content = (folder / f"{name}_{columns}.pdf").read_bytes()
            found = re.search(rb"/MediaBox \[ ?0 0 ([0-9.]+) ", content)
            assert found is not None
            assert float(found.group(1)) == pytest.approx(72 * inches, abs=1)
            assert b"/Type3" not in content, "journals refuse fonts of this kind"


def test_the_page_needs_nothing_else_and_shows_text_as_text(study: Path) -> None:
    page = render(make_report(study))
    assert not re.search(
        r"""(src|href)\s*=\s*["']?(https?:)?//""", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    )
    text = text_of(page)
    assert "Do more &lt;crops&gt; pay?" in text
    assert "diverged &lt;at once&gt;" in text
    assert "12 finished, 1 running, 1 stopped, 1 failed of 20 trials" in text
    assert "cores" in text


BROKEN: dict[str, tuple[list[tuple[Mapping[str, Any], list[dict[str, Any]]]], str]] = {
    "no trial": ([], "There is no answer yet: no trial has finished."),
    "no finished trial": (
        [(point(), rows(2, 0.3, 0.2, done=False)), (point(4), [])],
        "There is no answer yet: no trial has finished.",
    ),
    "one trial": ([(point(), rows(2, 0.3, 0.2))], "1 of 1 finished trials is on the front."),
    "one objective constant": (
        [(point(views), rows(2, 0.3, 0.01 * views)) for views in range(2, 14)],
        "1 of 12 finished trials is on the front.",
    ),
    "missing metrics": (
        [(point(views), rows(2, 0.3, None)) for views in (2, 3)],
        "There is no answer yet: no finished trial has all objectives.",
    ),
    "some metrics missing": (
        [(point(2), rows(2, 0.3, None)), (point(3), rows(2, 0.3, 0.1))],
        "1 of 2 finished trials is on the front.",
    ),
    "nothing was right": ([(point(views), rows(2, 0.0, 0.0)) for views in (2, 3, 4)], "3 of 3 finished trials are on"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_study_has_a_report_that_says_what_is_missing(tmp_path: Path, name: str) -> None:
    trials, says = BROKEN[name]
    folder = make(tmp_path / "broken", trials, budget={"trials": max(len(trials), 1)})
    text = text_of(write_report(folder).read_text())
    assert says in text
    assert not re.search(r"\b(nan|None|inf)\b", text.partition("Provenance")[0])


@pytest.mark.usefixtures("nothing_is_drawn")
def test_a_metric_that_is_missing_is_a_dash_and_never_a_zero(tmp_path: Path) -> None:
    folder = make(tmp_path / "broken", [(point(2), rows(2, 0.3, None)), (point(3), rows(2, 0.3, 0.1))])
    table = {row["trial_id"]: row for row in read_table(write_report(folder).parent / "trials.csv")}
    assert table["trial_00000"]["robust_accuracy"] == ""
    (shown,) = [t for t in make_report(folder).tables if t.name == "trials"]
    assert shown.shown()[0][[column.name for column in shown.columns].index("robust_accuracy")] == "–"


@pytest.mark.parametrize(
    "objectives",
    [
        {"robust_accuracy": "maximize"},
        {"flops": "minimize"},
        {"clean_accuracy": "maximize", "robust_accuracy": "maximize", "crop_passes": "minimize"},
    ],
    ids=list,
)
def test_any_objectives_are_reported(study: Path, objectives: dict[str, str]) -> None:
    config = read_study(study / "study.yaml")
    write_config(study, config.model_copy(update={"objectives": objectives}))
    assert make_report(study).commands
    assert write_report(study).is_file()


def test_what_is_published_of_the_same_images_and_radius_is_marked(tmp_path: Path) -> None:
    trial = {"data": {"name": "npz", "path": "cifar10.npz"}, "evaluation": {"epsilon": "8/255"}}
    for epsilon, robust in (("8/255", 0.3334), ("4/255", 0.5597), ("2/255", None)):
        trial["evaluation"] = {"epsilon": epsilon}
        folder = make(tmp_path / epsilon[0], [(point(), rows(2, 0.3, 0.2))], trial=trial)
        charts = {chart.name: chart for chart in make_report(folder).charts}
        assert ("published" in charts) is (robust is not None)
        if robust is not None:
            published = charts["published"]
            assert isinstance(published, Chart)
            ours, theirs = published.panels[0].marks
            place = list(theirs.labels).index("cf-amc-ssl")  # type: ignore[union-attr]
            assert (theirs.x[place], theirs.y[place]) == pytest.approx((0.7588, robust))  # type: ignore[union-attr]
            assert (list(ours.x), list(ours.y)) == ([0.3], [0.2])  # type: ignore[union-attr]


BY_DEFAULT = [("", 1280, "light"), ("cifar_small", 400, "dark"), ("quickstart", 1280, "dark")]
"""Each report once; the other openings are long."""


@pytest.fixture(scope="module")
def opened_pages() -> dict[str, Path]:
    """The pages that have been written, by the recorded study; tests only read them."""
    return {}


@pytest.fixture
def page_path(recorded: str, opened_pages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a recorded study, or of the one that is made here."""
    if recorded not in opened_pages:
        folder = tmp_path_factory.mktemp("opened") / (recorded or "made")
        study = Path(shutil.copytree(STUDIES / recorded, folder)) if recorded else make_one_of_all(folder)
        opened_pages[recorded] = write_report(study)
    return opened_pages[recorded]


@pytest.mark.parametrize(
    ("recorded", "width", "scheme"),
    [
        pytest.param(*opened, marks=[] if opened in BY_DEFAULT else pytest.mark.long)
        for opened in itertools.product(["", "quickstart", "cifar_small"], [1280, 400], ["light", "dark"])
    ],
)
def test_in_a_browser_every_figure_is_drawn_and_nothing_is_fetched(
    browser: Any, page_path: Path, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_path.as_uri())
    page.wait_for_function("document.querySelectorAll('.plotly-graph-div .main-svg').length > 0")
    page.wait_for_timeout(300)

    assert [line for line in said if "GL Driver Message" not in line] == [], "WebGL without a GPU says that it is slow"
    assert asked == [page_path.as_uri()]
    sizes = page.evaluate(
        "[...document.querySelectorAll('.plotly-graph-div')].map(plot => {"
        " const drawn = plot.querySelector('.main-svg').getBoundingClientRect();"
        " const place = plot.parentElement.getBoundingClientRect();"
        " return [drawn.width, drawn.height, place.width]; })"
    )
    charts = make_report(page_path.parents[1]).charts
    panels = sum(len(chart.panels) if isinstance(chart, Chart) else 1 for chart in charts)
    assert len(sizes) == panels
    assert all(drawn > 200 and height > 100 and drawn <= max(place, 640) + 1 for drawn, height, place in sizes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing makes the page scroll sideways"
    small = page.evaluate(
        "[...document.querySelectorAll('p, td, th, h1, h2, h3, pre')].filter("
        "  element => parseFloat(getComputedStyle(element).fontSize) < 12).length"
    )
    assert small == 0
    luminance = page.evaluate(
        "(() => { const light = name => { const [r, g, b] = getComputedStyle(document.body)[name].match(/[0-9]+/g)"
        ".map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });"
        " return 0.2126 * r + 0.7152 * g + 0.0722 * b; };"
        " return [light('color'), light('backgroundColor')]; })()"
    )
    ink, paper = luminance
    assert (ink < paper) == (scheme == "light")
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 7, "the contrast that WCAG calls enhanced"
    fill = page.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill")
    text = page.evaluate("getComputedStyle(document.body).color")
    assert fill == text, "figures are written in the page's colour"
    context.close()


def test_the_page_of_a_study_without_trials_draws_its_sentences(browser: Any, tmp_path: Path) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(write_report(make(tmp_path / "empty", [], budget={"trials": 1})).as_uri())
    page.wait_for_function("document.querySelectorAll('.annotation-text').length > 0")
    assert "no trial has finished yet" in page.inner_text("#front-0")
    assert said == []
    page.close()


@pytest.mark.usefixtures("nothing_is_drawn")
def test_reading_a_report_changes_nothing_of_the_study(study: Path) -> None:
    before = read_trials(study)
    write_report(study)
    assert read_trials(study) == before


@pytest.fixture
def curves(tmp_path: Path) -> Path:
    """Three trials; a stronger L2 takes 5 points of clean accuracy and gives 10 of robust accuracy."""
    trials = []
    for views in (2, 8, 32):
        points = [
            {
                "l2": l2,
                "probe_accuracy": 0.9,
                "clean_accuracy": round(0.4 + 0.01 * views - 0.05 * n, 3),
                "robust_accuracy": round(0.2 + 0.1 * n, 3),
            }
            for n, l2 in enumerate((0.001, 0.1, 1.0))
        ]
        metrics = rows(2, points[2]["clean_accuracy"], points[2]["robust_accuracy"])
        metrics[-1]["operating_points"] = points
        trials.append((point(views), metrics))
    return make(tmp_path / "made of curves", trials, name="made")


def test_of_curves_it_says_what_the_head_moves_and_what_noise_hides(curves: Path) -> None:
    report = make_report(curves)
    counted, noise, best_clean, best_robust, clean, robust, volume, *_ = report.sentences
    assert counted == "3 operating points of 1 of the 3 finished trials are on the front."
    assert noise.startswith(
        "Of 3 points on the front, noise cannot tell apart those of the same noise group (2 groups)"
    ), "20 of 100 images have an interval up to 28.9 %, 30 from 21.9 %, 40 from 30.9 %"
    assert best_clean.startswith("Best clean accuracy: trial 2 at L2 0.001, with clean accuracy 72.0%, robust")
    assert best_robust.startswith("Best robust accuracy: trial 2 at L2 1, with clean accuracy 62.0%, robust")
    assert clean == (
        "Choosing the probe's L2 strength moves clean accuracy by 10.0 points within a trial (median); all searched "
        "keys together move it by 30.0 points between trials at the same strength (median)."
    )
    assert "moves robust accuracy by 20.0 points within a trial (median)" in robust
    assert "move it by 0.0 points between trials" in robust
    gain = (0.72 * 0.2 + 0.67 * 0.1 + 0.62 * 0.1) / (0.62 * 0.4)
    assert volume.startswith(f"The hypervolume of all operating points is {gain:.2f} times that of the best single")
    assert "(L2 1) for all trials" in volume
    remarks = {section.anchor: section.remark for section in report.sections}
    assert "balanced operating point" in remarks["effects"]
    assert "balanced operating point" in remarks["curves"]
    assert "A thin line joins" in remarks["front"]


@pytest.mark.usefixtures("nothing_is_drawn")
def test_of_curves_the_tables_have_a_row_for_each_operating_point(curves: Path) -> None:
    folder = write_report(curves).parent
    front, key = read_table(folder / "front.csv"), "evaluation.head.l2"
    assert [(row["trial_id"], row[key], row["noise group"]) for row in front] == [
        ("trial_00002", "0.001", "a"),
        ("trial_00002", "0.1", "a"),
        ("trial_00002", "1.0", "b"),
    ]
    assert [row[key] for row in read_table(folder / "recommended.csv")][:2] == ["0.001", "1.0"]
    assert {row[key] for row in read_table(folder / "ladder.csv")} == {"1.0"}
    trials = read_table(folder / "trials.csv")
    assert len(trials) == 3
    assert key not in trials[0]


def test_the_command_of_an_operating_point_sets_its_strength(curves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = dict(make_report(curves).commands)["best clean accuracy (trial 2 at L2 0.001)"]
    words = shlex.split(command)
    assert words == ["cfamc", "train", "--trial", str(curves / "trial_00002"), "--set", "evaluation.head.l2=0.001"]
    assert train([*words[2:], "--dry-run"]) == 0
    assert re.search(r"l2:\s*(\[|-\s)?0\.001\s*\]?\n", capsys.readouterr().out)


def test_without_operating_points_nothing_is_said_of_them(study: Path) -> None:
    page = text_of(render(make_report(study)))
    assert not re.search(r"operating point|L2 strength", page.partition("Provenance")[0])
