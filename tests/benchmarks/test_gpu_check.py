"""The check on a fake GPU finds planted faults and names their place, and what it counts are closed forms."""

import inspect
import json
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check.backward import PythonEngine
from benchmarks.gpu_check.cases import (
    BYTES_PER_SECOND,
    EVALUATIONS,
    UNLIKE_RECIPES,
    Case,
    all_cases,
    run,
    seconds,
)
from benchmarks.gpu_check.fake import DEVICE, eager, fake_cuda
from benchmarks.gpu_check.recorder import PACKAGE, Operation
from cfamc_ray.config.recipes import VARIANTS, read_recipe, recipe_names
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.counting import crop_pass_flops, forward_flops
from cfamc_ray.evaluation import probe
from cfamc_ray.method import crops, perturbation
from cfamc_ray.method import losses as loss
from cfamc_ray.method.inner_maximization import PgdUpdate

B, V = 4, 4
SMALL = eager(
    TrialConfig().with_values(
        {
            "data.pretrain_images": B,
            "data.validation_images": 0,
            "crops.views": V,
            "encoder.width": 4,
            "encoder.prefeature_width": 8,
            "encoder.hidden_width": 8,
            "encoder.embedding_width": 8,
            "pretraining.batch_images": B,
            "pretraining.replays": 1,
            "pretraining.split_stem": False,
        }
    )
)


def plant(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, *edits: tuple[str, str]) -> list[str]:
    """Put faults into a function's source, wherever it is imported; their places.

    Args:
        monkeypatch: that takes them out again.
        module: of the function, or its class.
        name: of the function.
        edits: what stands there, on one line, and what is to stand there instead.
    """
    original = getattr(module, name)
    lines, first = inspect.getsourcelines(original)
    changed, places = list(lines), []
    file = inspect.getsourcefile(original)
    assert file is not None
    for old, new in edits:
        (number,) = [number for number, line in enumerate(lines) if old in line]
        changed[number] = lines[number].replace(old, new)
        places.append(f"{file.removeprefix(PACKAGE)}:{first + number}")
    namespace = dict(vars(inspect.getmodule(original)))
    exec(compile("\n" * (first - 1) + textwrap.dedent("".join(changed)), file, "exec"), namespace)  # noqa: S102
    holders = [module, *(each for key, each in sys.modules.items() if key.startswith("cfamc_ray"))]
    for holder in holders:
        if vars(holder).get(name) is original:
            monkeypatch.setattr(holder, name, namespace[name])
    return places


def test_a_trial_passes_and_its_matrix_products_are_those_that_were_counted_otherwise() -> None:
    found = run(Case(SMALL))
    assert found.failures == []
    forward = B * V * forward_flops(SMALL.encoder, SMALL.crops.size)
    whole = B * V * crop_pass_flops(SMALL.encoder, SMALL.crops.size)[0]
    assert found.work(1, phase="forward").flops == forward
    # Of the coding rate: both factors' gradients in z zᵀ, and one product in the gradient of Cholesky's factor.
    of_rate = 2 * 2 * V * B * B * SMALL.encoder.embedding_width + 2 * V * B**3
    assert found.work(1, phase="backward").flops == whole - forward + of_rate
    assert found.waits(inside=False), "the losses are read at the end of the epoch"


def test_attack_passes_are_counted_without_the_gradients_of_convolutions_weights() -> None:
    pgd = {"perturbation.attack": "pgd", "perturbation.steps": 2}
    kept = {**pgd, "perturbation.keep_attack_gradients": True}
    flops = [run(Case(SMALL.with_values(values))).work(1, phase="backward").flops for values in (pgd, kept)]
    update, attack = crop_pass_flops(SMALL.encoder, SMALL.crops.size)
    assert flops[1] - flops[0] == pytest.approx(2 * B * V * (update - attack), rel=0.01)  # linear layers are few


def test_per_pass_counts_do_not_depend_on_replays_but_for_the_crops() -> None:
    works = [run(Case(SMALL.with_values({"pretraining.replays": m}))).work(m, phase="backward") for m in (1, 2)]
    assert works[0] == pytest.approx(works[1])


@pytest.mark.parametrize(
    "values",
    [
        {"pretraining.views_at_once": 2, "pretraining.activation_checkpointing": True},
        {"encoder.architecture": "vit"},
        {"encoder.stem": "large", "encoder.norm": "group", "pretraining.precision": "float32"},
        {
            **{"crops.views": 2, "loss.name": "nt_xent", "perturbation.attack": "pgd", "perturbation.clean_views": 1},
            "perturbation.attack_positive": "self",
        },
        {"optimizer.trust_coefficient": None, "perturbation.carry": False},
    ],
    ids=["activation_checkpointing", "vit", "group norm", "simclr", "plain sgd"],
)
def test_other_trials_pass(values: dict[str, Any]) -> None:
    found = run(Case(SMALL.with_values(values)))
    assert found.failures == []
    assert found.work(1).flops > 0


@pytest.mark.parametrize(
    "name", ["evaluation of a search", "head published-emp", "crops in the evaluation", "fine-tuning"]
)
def test_evaluations_pass(name: str) -> None:
    assert run(Case(SMALL, EVALUATIONS[name])).failures == []


IN_THE_LOOP = "inside the loop over minibatches"


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("rate_V.sum().item()", "the host reads a value"),
        ("(1 if rate_V.sum() > 0 else 2)", "the host reads a value"),
        ("torch.linalg.inv(gram_VSS.detach() + identity_SS).sum()", "the host reads a value"),
        ("float(rate_V.detach().cpu().sum())", "a copy to the host"),
        ("rate_V.nonzero().sum()", "the host waits for the size"),
        ("rate_V[rate_V > 0].sum()", "the host waits for the size of an index of truth values"),
        ("rate_V[torch.arange(len(rate_V))]", "an index on the CPU is copied"),
        ("rate_V[[0]]", "a copy from memory that is not pinned"),
        ("torch.tensor([1.0], device=rate_V.device)", "a copy from memory that is not pinned"),
        ("torch.ones(1).to(rate_V.device, non_blocking=True)", "a copy from memory that is not pinned"),
        ("torch.ones(1).pin_memory().to(rate_V.device)", "a copy from memory that is not pinned, or without"),
        ("(torch.cuda.synchronize() or 0)", "the host waits for all work"),
    ],
)
def test_a_wait_in_the_loop_over_minibatches_is_named(fault: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (place,) = plant(monkeypatch, loss, "coding_rate", ("return rate_V", f"return rate_V + 0 * {fault}"))
    failures = run(Case(SMALL)).failures
    assert any(failure.startswith(f"{place}: {why}") for failure in failures)
    assert all(IN_THE_LOOP in failure for failure in failures)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("torch.ones(len(rate_V))", "devices"),
        ("torch.rand(1, generator=torch.Generator(), device=rate_V.device)", "a generator of cpu cannot draw on cuda"),
        ("(identity_SS.long() @ identity_SS.long()).sum()", "mm on a GPU refuses torch.int64"),
        ("torch.linalg.cholesky_ex(identity_SS.bfloat16()).L.sum()", "refuses short floats"),
    ],
)
def test_what_a_gpu_refuses_is_named(fault: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (place,) = plant(monkeypatch, loss, "coding_rate", ("return rate_V", f"return rate_V + 0 * {fault}"))
    found = run(Case(SMALL))
    assert found.problem.startswith(f"{place}: ")
    assert why in found.problem


@pytest.mark.parametrize(
    "harmless",
    [
        "torch.ones(1).pin_memory()[:1].to(rate_V.device, non_blocking=True)",
        "torch.full((1,), 2.0, device=rate_V.device)",
        "torch.tensor(2.0)",
        "torch.where(rate_V > 0, rate_V, 0.0)",
        "rate_V.detach().clone().index_put_((rate_V > 0,), torch.tensor(0.0))",
        "torch.linalg.inv_ex(gram_VSS.detach()).inverse.sum()",
    ],
)
def test_what_a_gpu_does_without_the_host_is_no_fault(harmless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, loss, "coding_rate", ("return rate_V", f"return rate_V + 0 * {harmless}"))
    assert run(Case(SMALL)).failures == []


def test_a_constant_that_is_copied_in_the_turn_of_the_hue_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "torch.arange(3, device", "torch.tensor([0, 1, 2], device"
    (place,) = plant(monkeypatch, crops, "_turn_hue", (old, new))
    (failure,) = run(Case(SMALL)).failures
    assert failure.startswith(f"{place}: a copy from memory that is not pinned")


def test_parameters_of_crops_that_are_not_pinned_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    values = "getattr(parameters, each.name).to(images_BCHW.device, non_blocking=True) for each in fields(parameters)"
    old = "parameters = parameters.to(images_BCHW.device, dtype)"
    (place,) = plant(monkeypatch, crops, "make_crops", (old, f"parameters = CropParameters(*({values}))"))
    (failure,) = run(Case(SMALL)).failures
    assert failure.startswith(f"{place}: a copy from memory that is not pinned")
    assert failure.endswith(f"{IN_THE_LOOP}, 10 times")


def test_views_that_a_list_selects_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    (place,) = plant(monkeypatch, PgdUpdate, "__call__", ("crops_VBCHW[1:]", "crops_VBCHW[[1, 1]]"))
    recipe = read_recipe("simclr-crops-pgd").trial("published").with_values({"pretraining.batch_images": B})
    config = recipe.with_values({"data.pretrain_images": B, "encoder": SMALL.encoder.model_dump()})
    (failure,) = run(Case(eager(config))).failures
    assert failure.startswith(f"{place}: a copy from memory that is not pinned")


def test_truth_values_as_an_index_in_a_step_of_an_attack_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "return delta.clamp(-epsilon, epsilon)", "return delta[delta == delta].view_as(delta)"
    (place,) = plant(monkeypatch, perturbation, "into_ball", (old, new))
    failures = run(Case(SMALL, EVALUATIONS["head published-emp"])).failures
    assert any(
        failure.startswith(f"{place}: the host waits for the size") and "inside the loop over attack's steps" in failure
        for failure in failures
    )


def test_a_value_that_is_read_in_each_minibatch_of_a_head_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "loss.backward()", "(loss * loss.item()).backward()"
    (place,) = plant(monkeypatch, probe, "train_probe", (old, new))
    failures = run(Case(SMALL, EVALUATIONS["head published-simclr"])).failures
    expected = (
        f"{place}: the host reads a value (aten._local_scalar_dense.default), inside the loop over head's minibat"
    )
    assert any(failure.startswith(expected) for failure in failures)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, factor: float, x: Tensor, weight: Tensor, _: str) -> Tensor:
        ctx.factor = factor
        ctx.save_for_backward(x, weight)
        return factor * x * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        return None, ctx.factor * gradients[0] * weight, (ctx.factor * gradients[0] * x).sum(0), None


class Net(nn.Module):
    """Of everything that a backward pass may meet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.unused = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)), inplace=True)
        x = F.relu(checkpoint(self.second, x, use_reentrant=False) + x)
        x = Scaled.apply(3.0, x.mean((-2, -1)), self.scale, "")
        one, other = x.chunk(2, dim=1)
        return (one * other + torch.cat([one, one], 1)[:, 1:4] + x.detach().sum()).square().sum()


def test_a_backward_pass_walked_in_python_gives_the_gradients_of_torchs_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, x = Net().double(), torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    inputs = [x, net.scale, net.first.weight]

    def gradients(accumulated: int) -> list[Tensor | None]:
        net.zero_grad()
        x.grad = None
        for _ in range(accumulated):
            net(x).backward()
        return [each.grad for each in (x, *net.parameters())]

    expected, expected_some = gradients(2), torch.autograd.grad(net(x), inputs)
    engine = PythonEngine()
    for owner, name, instead in (
        (torch.autograd, "backward", engine.backward),
        (torch.autograd, "grad", engine.grad),
        (torch._C, "_current_graph_task_id", lambda: engine.task),
    ):
        monkeypatch.setattr(owner, name, instead)
    found = gradients(2)
    found_some = torch.autograd.grad(net(x), inputs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_some, expected_some)
    assert engine.task == -1


def test_bytes_and_flops_of_a_small_function() -> None:
    with fake_cuda() as recorder:
        a = torch.empty(10, 20, device=DEVICE, dtype=torch.bfloat16)
        b = torch.empty(20, 30, device=DEVICE, dtype=torch.bfloat16)
        product = a @ b
        row = torch.empty(30, device=DEVICE, dtype=torch.float32)
        total = product.float() + row.expand(10, 30)
        total.t().zero_()
        total.mul_(2)
        total.view(-1)[:5].copy_(row[:5])
    counted = [(each.name, each.read, each.written, each.flops) for each in recorder.operations]
    assert counted == [
        ("mm.default", 2 * (200 + 600), 2 * 300, 2 * 10 * 20 * 30),
        ("_to_copy.default", 2 * 300, 4 * 300, 0),
        ("add.Tensor", 4 * (300 + 30), 4 * 300, 0),
        ("zero_.default", 0, 4 * 300, 0),
        ("mul_.Tensor", 4 * 300, 4 * 300, 0),
        ("copy_.default", 4 * 5, 4 * 5, 0),
    ]


def test_a_norm_over_the_batch_reads_its_input_twice() -> None:
    with fake_cuda() as recorder:
        norm = nn.BatchNorm2d(3, affine=False, track_running_stats=False).to(DEVICE)
        norm(torch.empty(2, 3, 4, 5, device=DEVICE))
    (operation,) = recorder.operations
    assert operation.read == 2 * 4 * 120
    assert operation.written == 4 * 120 + 2 * 4 * 3  # and the mean and spread of each channel


def test_an_operation_takes_the_longer_of_its_bytes_and_its_products() -> None:
    operation = partial(Operation, "mm", "", "", "", "", 0, dtype=torch.bfloat16)
    assert seconds(operation(read=2 * 10**9, written=10**9)) == 3e9 / BYTES_PER_SECOND
    assert seconds(operation(read=1, flops=8 * 10**12)) == 8e12 / 800e12


def test_all_recipes_in_both_dialects_and_what_no_recipe_has_are_cases() -> None:
    cases = all_cases()
    for variant in VARIANTS:
        named = " = ".join(name.removesuffix(f", {variant}") for name in cases if name.endswith(f", {variant}"))
        assert sorted(named.split(" = ")) == recipe_names()
    assert set(UNLIKE_RECIPES) | set(EVALUATIONS) <= set(cases)
    paper = cases["cf-amc-ssl = emp-ssl-patches-free, corrected"].config
    assert (paper.pretraining.batch_images, paper.pretraining.replays, paper.minibatches_per_epoch) == (100, 3, 2)
    assert list(all_cases("simclr-crops")) == ["simclr-crops, corrected", "simclr-crops, published"]


def test_the_command_says_what_failed_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    assert command.check({"small": Case(SMALL)}, file) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 cases pass"
    (case,) = json.loads(file.read_text())["cases"].values()
    assert case["failures"] == []
    assert case["pass"]["operations"] == sum(phase["operations"] for phase in case["phases"].values())
    plant(monkeypatch, loss, "coding_rate", ("return rate_V", "return rate_V + rate_V.sum().item()"))
    assert command.check({"small": Case(SMALL)}) == 1
    out = capsys.readouterr().out
    assert "  FAILED method/losses.py:" in out
    assert out.splitlines()[-1] == "0 of 1 cases pass; small fails"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "cf-amc-sll"], "did you mean cf-amc-ssl?"),
        (["--set", "crops.view=4"], "crops.view"),
        (["--recipe", "cf-amc-ssl", "--set", "crops.views=1"], "crops.views"),
    ],
)
def test_bad_input_is_told_without_a_traceback(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(options) == 2
    assert message in capsys.readouterr().err
