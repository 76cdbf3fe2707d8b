"""What the pages in docs show a person works as it stands."""

import inspect
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import torch

import cfamc_ray
from cfamc_ray.cli.main import main as cfamc
from cfamc_ray.config.yaml12 import parse_yaml, read_yaml
from cfamc_ray.data.splits import load_splits, load_test
from cfamc_ray.lifecycle.plans import plan_study
from cfamc_ray.space.reading import read_study
from cfamc_ray.tune import main as tune

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))
COMMANDS = sorted(
    {
        re.split("  #| > ", line)[0]
        for page in [*PAGES, DOCS.parent / "README.md"]
        for line in re.findall(r"^\.venv/bin/(?:cfamc|python -m) .*", page.read_text(encoding="utf-8"), re.MULTILINE)
        if "--help" not in line
    }
)

HEADING = re.compile(r"^#+ (.*)", re.MULTILINE)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_own_images_as_the_page_makes_them_are_read_by_the_space_that_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,), (space,) = blocks("own_data.md", "python"), blocks("own_data.md", "yaml")
    exec(code, {})  # noqa: S102 (our own page)
    Path("mine.yaml").write_text(space, encoding="utf-8")
    data = read_study(Path("mine.yaml")).trial.data
    splits = load_splits(data)
    assert splits.pretrain.batch(torch.tensor([0])).shape == (1, 3, 32, 32)
    assert (len(splits.pretrain), len(splits.probe), len(splits.validation), splits.classes) == (1000, 400, 300, 10)
    assert len(load_test(data)) == 297
    assert tune(["--space", "mine.yaml", "--dry-run"]) == 0
    assert "8 trials of" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["api.md", "../README.md"])
def test_the_page_s_program_runs_as_it_stands(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a study that was recorded in place of Ray's, and smaller keys for the run."""
    recorded = shutil.copytree(
        DOCS.parent / "benchmarks" / "results" / "studies" / "quickstart", tmp_path / "runs" / "quickstart"
    )
    wanted: list[dict[str, Any]] = []

    def run_study(space: str, *, overrides: list[str]) -> cfamc_ray.Study:
        wanted.append(plan_study(space, overrides=overrides).config.model_dump())
        return cfamc_ray.open_study(recorded)

    def smaller(call: Callable[..., Any], *keys: str) -> Callable[..., Any]:
        return lambda what, *, overrides=(): call(what, overrides=[*overrides, *keys], device="cpu")

    monkeypatch.chdir(tmp_path)
    sizes = ("data.pretrain_images=40", "data.probe_images=40", "data.validation_images=20", "crops.views=2")
    widths = ("encoder.width=4", "encoder.prefeature_width=4", "encoder.hidden_width=4", "encoder.embedding_width=4")
    attack = ("images=20", "attack.steps=1", "attack.restarts=1", "autoattack_images=0", "autoattack_epsilons=[]")
    small = ("pretraining.batch_images=20", "evaluation.attacked_images=10", "resources.cpus_per_worker=1")
    monkeypatch.setattr(cfamc_ray, "run_study", run_study)
    monkeypatch.setattr(cfamc_ray, "train", smaller(cfamc_ray.train, *sizes, *widths, *small))
    monkeypatch.setattr(cfamc_ray, "evaluate", smaller(cfamc_ray.evaluate, *attack))
    (code,) = blocks(page, "python")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 (our own page)
    assert wanted[0]["budget"]["trials"] == 4
    assert isinstance(names["encoder"], torch.nn.Module)
    (record,) = tmp_path.glob("runs/cf-amc-ssl/trial_00000/evaluations/*.json")
    assert len(json.loads(record.read_text(encoding="utf-8"))["results"]) > 1


def test_the_page_names_what_there_is() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    called = set(re.findall(r"^\| `(\w+)\(", text, re.MULTILINE)) | set(re.findall(r"cfamc_ray\.(\w+)\(", text))
    of_study = {"resume", "confirm", "report", "recommended", "interpolate"}
    assert {name for name in cfamc_ray.__all__ if name[0].islower()} == called - of_study
    assert of_study <= {*dir(cfamc_ray.Study)}
    for call in re.findall(r"^\| `(\w+\(.*?\))`", text, re.MULTILINE):
        name, given = call.split("(", 1)
        known = inspect.signature(getattr(cfamc_ray.Study if name in of_study else cfamc_ray, name)).parameters
        assert {word.split("=")[0].strip(" )") for word in given.split(",") if word.strip(" )…")} <= {*known}, call


def test_there_are_commands_to_type() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood_as_it_is_written(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, *words = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    trains = words[0] in ("tune", "scale") or "--recipe" in words
    code = cfamc([*words, "--dry-run"] if trains else words)  # ends the process where it is not
    missing = capsys.readouterr().err
    needs_study = not trains and words[0] not in ("recipes", "completion")
    assert code == (2 if needs_study else 0)
    assert ("runs/" in missing) is needs_study, "only the study that it is about is not here"


def pinned_ray() -> str:
    (version,) = re.findall(r"^ray==(\S+)", (DOCS.parent / "requirements.txt").read_text(), re.MULTILINE)
    return str(version)


def test_the_job_on_kubernetes_types_a_command_that_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = read_yaml(DOCS / "clusters" / "kuberay.yaml")["spec"]
    _, _, line = shlex.split(job["entrypoint"])
    _, _, _, *words = shlex.split(line.split(" $(")[0])
    monkeypatch.chdir(tmp_path)
    assert tune([*words, "--dry-run"]) == 0
    asked = parse_yaml(capsys.readouterr().out)["resources"]
    cluster = job["rayClusterSpec"]
    assert cluster["rayVersion"] == pinned_ray()
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    (group,) = cluster["workerGroupSpecs"]
    for pods in (cluster["headGroupSpec"], group):
        (container,), (volume,) = (pods["template"]["spec"][name] for name in ("containers", "volumes"))
        assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"]]
    limits = container["resources"]["limits"]
    assert group["replicas"] * int(limits["nvidia.com/gpu"]) >= asked["trials_at_once"] * asked["gpus_per_worker"]
    assert group["replicas"] * int(limits["cpu"]) >= asked["trials_at_once"] * asked["cpus_per_worker"]


def test_the_cloud_s_file_is_one_that_ray_s_launcher_takes() -> None:
    cluster = read_yaml(DOCS / "clusters" / "aws.yaml")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    nodes = cluster["available_node_types"][cluster["head_node_type"]]
    assert nodes["min_workers"] == nodes["max_workers"] == cluster["max_workers"], "as many as the study asks for"


def test_the_image_has_the_ray_that_is_pinned() -> None:
    assert f"FROM rayproject/ray:{pinned_ray()}-py312" in (DOCS / "clusters" / "Dockerfile").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#h][^)#]*)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [*PAGES, DOCS.parent / "README.md"], ids=lambda page: page.name)
def test_links_to_a_heading_lead_to_one(page: Path) -> None:
    for name, heading in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", page.read_text(encoding="utf-8")):
        text = (page.parent / name if name else page).read_text(encoding="utf-8")
        titles = [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in HEADING.findall(text)]
        assert heading in titles, f"{name}#{heading}"
