"""What a person can do with a report: sort, filter, select, copy, choose by price."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cfamc_ray.report.contents import make_report
from cfamc_ray.report.page import write_report

STUDY = Path(__file__).parents[2] / "benchmarks" / "results" / "studies" / "cifar_small"
"""What a real study left in its folder, without weights."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's report."""
    return write_report(Path(shutil.copytree(STUDY, tmp_path_factory.mktemp("opened") / "cifar_small")))


@pytest.fixture
def page(browser: Any, written: Path) -> Iterator[Any]:
    """The report, opened; no error may appear."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(written.as_uri())
    opened.wait_for_function("document.getElementById('front-0').data?.some(one => one.name.startsWith('the choice'))")
    yield opened
    assert errors == []
    context.close()


def column(page: Any, name: str, table: str = "trials") -> list[str]:
    """The shown cells of a column."""
    found: list[str] = page.evaluate(
        """([table, name]) => {
            const all = document.querySelector(`table[data-name=${table}]`);
            const place = [...all.tHead.rows[0].cells].findIndex(cell => cell.innerText.trim() === name);
            return [...all.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[place].innerText);
        }""",
        [table, name],
    )
    return found


def numbers(cells: list[str]) -> list[float]:
    return [float(cell.rstrip("%")) for cell in cells]


def test_a_heading_sorts_by_value_and_again_the_other_way_by_keyboard_too(page: Any) -> None:
    heading = page.locator("table[data-name=trials] th", has_text="clean accuracy")
    heading.locator("button").click()
    rising = numbers(column(page, "clean accuracy"))
    assert rising == sorted(rising)
    assert rising != numbers(column(page, "robust accuracy"))
    assert heading.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")  # the button has the focus
    assert numbers(column(page, "clean accuracy")) == rising[::-1]
    assert page.locator("table[data-name=trials] [aria-sort]").count() == 1
    page.locator("table[data-name=trials] th", has_text="training time").locator("button").click()
    assert column(page, "training time")[0] == "34 s", "durations are sorted by their seconds"


def test_words_filter_the_rows_and_their_number_is_said(page: Any) -> None:
    place = page.locator("section, div", has=page.locator("table[data-name=trials]")).last
    field = place.locator("xpath=preceding-sibling::p[1]").locator("input[type=search]")
    field.fill("stopped")
    assert column(page, "trial id") == ["trial_00017"]
    assert page.get_by_text("1 of 24 rows").is_visible()
    field.fill("")
    assert len(column(page, "trial id")) == 24


def test_an_interval_on_an_axis_selects_rows_and_words_select_among_them(page: Any) -> None:
    (replays,) = [n for n, label in enumerate(_labels(page)) if label == "replays"]
    page.evaluate(
        "axis => Plotly.restyle('parallel-0', {[`dimensions[${axis}].constraintrange`]: [[0.9, 1.0]]})", replays
    )
    assert column(page, "replays") == ["6"], "the top of the axis is 6"
    page.evaluate("axis => Plotly.restyle('parallel-0', {[`dimensions[${axis}].constraintrange`]: [null]})", replays)
    assert len(column(page, "replays")) == 24


def _labels(page: Any) -> list[str]:
    labels: list[str] = page.evaluate(
        "document.getElementById('parallel-0').data[0].dimensions.map(axis => axis.label)"
    )
    return labels


def test_a_drag_along_an_axis_selects_rows(page: Any) -> None:
    page.locator("#parallel-0").scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    box = page.locator("#parallel-0 .axis-brush").first.bounding_box()
    x = box["x"] + box["width"] / 2
    page.mouse.move(x, box["y"] + 0.4 * box["height"])
    page.mouse.down()
    page.mouse.move(x, box["y"] - 5, steps=8)
    page.mouse.up()
    page.wait_for_timeout(500)
    views = {int(cell) for cell in column(page, "views")}
    assert views, "some rows are left"
    assert min(views) > 2, "those with few views are not among them"


def test_a_command_is_copied(page: Any, written: Path) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = page.locator("#recommended ~ button.copy").first
    button.click()
    page.get_by_role("button", name="Copy:").first.wait_for()
    assert button.inner_text() == "Copied"
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == make_report(written.parents[1]).commands[0][1]


def test_the_slider_moves_the_choice_from_the_most_robust_to_the_cleanest(page: Any, written: Path) -> None:
    choices = make_report(written.parents[1]).choices
    slider = page.locator("#price input")
    place = page.locator("#price")

    def shown() -> str:
        return str(place.locator("[data-low]:visible p").inner_text())

    def ring() -> list[float]:
        found: list[float] = page.evaluate(
            "(({data}) => [data.at(-1).x[0], data.at(-1).y[0]])(document.getElementById('front-0'))"
        )
        return found

    slider.focus()
    page.keyboard.press("Home")
    assert shown() == choices[0].words
    assert ring() == [choices[0].x, choices[0].y]
    page.keyboard.press("End")
    assert shown() == choices[-1].words
    assert ring() == [choices[-1].x, choices[-1].y]
    assert float(page.locator("#price output").inner_text()) > choices[-1].low
    assert choices[0].y > choices[-1].y
    assert choices[0].x < choices[-1].x


def test_a_click_on_a_point_of_the_front_keeps_its_command_below(page: Any, written: Path) -> None:
    place = page.evaluate(
        """() => {
            const plot = document.getElementById("front-0");
            const trace = plot.data.find(one => one.name === "on the front");
            const {xaxis, yaxis} = plot._fullLayout;
            plot.scrollIntoView({block: "center"});
            const box = plot.getBoundingClientRect();
            return [box.left + xaxis._offset + xaxis.d2p(trace.x[0]), box.top + yaxis._offset + yaxis.d2p(trace.y[0])];
        }"""
    )
    page.mouse.move(place[0], place[1] + 4)
    page.wait_for_timeout(300)
    assert "cfamc train --trial" in page.locator("#front-0 .hovertext").first.text_content()
    page.mouse.click(*place)
    picked = page.locator("#picked")
    picked.wait_for()
    assert picked.locator("strong").inner_text() == "trial 20 at L2 0.1"
    assert (
        picked.locator("pre").inner_text()
        == dict(make_report(written.parents[1]).commands)["best clean accuracy (trial 20 at L2 0.1)"]
    )
    assert picked.locator(".copy").is_visible()


def test_without_its_script_the_page_shows_every_choice_and_no_dead_control(browser: Any, written: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(written.as_uri())
    assert page.locator("#price [data-low]").count() == len(make_report(written.parents[1]).choices)
    assert all(one.is_visible() for one in page.locator("#price [data-low]").all())
    assert not page.locator("#price input").is_visible()
    assert page.locator("button").count() == 0
    context.close()


def test_it_is_one_file_that_can_be_mailed(written: Path) -> None:
    assert written.stat().st_size < 2_500_000, "Plotly alone has 4.8 MB, uncompressed"


def test_a_browser_that_cannot_draw_says_so_and_the_rest_works(browser: Any, written: Path) -> None:
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script("delete window.DecompressionStream")
    page.goto(written.as_uri())
    assert "too old to draw the figures" in page.locator("#front-0").inner_text()
    page.locator("#price input").focus()
    page.keyboard.press("End")
    assert page.locator("#price [data-low]:visible").count() == 1
    assert errors == []
    page.close()
