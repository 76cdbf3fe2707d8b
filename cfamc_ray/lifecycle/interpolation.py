"""Interpolate between the trials of a study that share their first epochs: operating points without training."""

import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.formatting import format_quantity
from cfamc_ray.front.interpolation import costs_of, siblings
from cfamc_ray.lifecycle.evaluation_plan import Device, Run, device_of, find_run, own_data
from cfamc_ray.store.interpolations import Interpolation, read_interpolation, write_interpolation
from cfamc_ray.store.layout import ENCODER, HEADS, interpolation_name, trial_name
from cfamc_ray.store.records import TrialFolder, TrialRecord, read_config, read_trials
from cfamc_ray.terminal import Detail, say

if TYPE_CHECKING:
    import torch

    from cfamc_ray.data.splits import Splits
    from cfamc_ray.method.encoder import SelfSupervisedEncoder

SHARES = (0.5,)
MINIBATCHES = 50
"""Largest number of minibatches over which batch norm's statistics are estimated."""


def interpolate_trials(
    study: Path,
    *,
    shares: Sequence[float] = SHARES,
    trials: Sequence[int] = (),
    device: Device = "auto",
    detail: Detail = "normal",
) -> list[Interpolation]:
    """Make the encoders between all siblings whose encoders are kept, and measure them as the search measures a trial.

    What is there already is not made again.

    Args:
        study: folder of the study.
        shares: of the second trial's weights, between 0 and 1.
        trials: numbers of the only trials to consider; empty for all.
        device: device of the computation.
        detail: amount of progress output.

    Returns:
        The interpolations of these trials and shares.

    Raises:
        InputError: if there are no siblings, a share is not between 0 and 1, or the images are missing or others.
    """
    for share in shares:
        if not 0 < share < 1:
            raise InputError(f"share {share:g}: must be between 0 and 1, such as 0.5")
    read_config(study)  # which says so where the folder holds no study
    records = read_trials(study)
    kept = [record.number for record in records if TrialFolder(study, record.number).encoder.is_file()]
    if missing := sorted(set(trials) - set(kept)):
        raise InputError(f"{study}: there is no encoder of trial {missing[0]}; keep_encoders: all keeps that of each")
    pairs = siblings(records, trials or kept)
    if not pairs:
        raise InputError(
            f"{study}: no two {'of these ' if trials else ''}trials whose encoders are kept share their first epochs; "
            "search.fork makes such trials, and keep_encoders: all keeps every encoder"
        )
    where = device_of(device)
    run_of = cache(lambda number: find_run(str(study / trial_name(number)), untrained=False))
    made = (_made(study, pair, run_of, float(share), where, detail) for pair in pairs for share in shares)
    return [one for one in made if one is not None]


def _made(
    study: Path,
    pair: tuple[TrialRecord, TrialRecord],
    run_of: Callable[[int], Run],
    share: float,
    device: "torch.device",
    detail: Detail,
) -> Interpolation | None:
    """An interpolation, from its folder if it is there; None where its accuracies are not to be trusted."""
    from cfamc_ray.evaluation.attacks import AttackInvalid  # noqa: PLC0415 (torch is slow to import)

    first, second = (record.number for record in pair)
    folder = study / interpolation_name(first, second, share)
    if found := read_interpolation(folder):
        return found
    folder.mkdir(exist_ok=True)
    try:
        row = _measured([run_of(first), run_of(second)], share, folder, device)
    except (AttackInvalid, FloatingPointError) as error:
        say(f"{folder.name}: not measured. {error}", detail)
        return None
    row |= {name: cost + row.get(name, 0.0) for name, cost in costs_of(*pair).items()}
    found = Interpolation(first, second, share, row)
    write_interpolation(study, found)
    best = (format_quantity("fraction", row[name]) for name in ("clean_accuracy", "robust_accuracy"))
    say(f"{folder.name}: {' clean, '.join(best)} robust at its balanced operating point", detail)
    return found


def _measured(runs: Sequence[Run], share: float, folder: Path, device: "torch.device") -> dict[str, Any]:
    """Make an encoder, measure it, and write it and its probes."""
    from cfamc_ray.data.splits import load_splits  # noqa: PLC0415 (torch is slow to import)
    from cfamc_ray.evaluation.classifier import save_heads  # noqa: PLC0415
    from cfamc_ray.evaluation.scores import search_scores  # noqa: PLC0415
    from cfamc_ray.method.encoder import load_encoder, save_encoder  # noqa: PLC0415
    from cfamc_ray.method.interpolation import interpolate  # noqa: PLC0415
    from cfamc_ray.training.allocator import keep_freed_memory  # noqa: PLC0415
    from cfamc_ray.training.generators import ATTACK, make_generator  # noqa: PLC0415

    keep_freed_memory()
    trial, started = runs[0].trial, time.perf_counter()
    splits = load_splits(own_data(runs[0], []), judged_on=trial.judged_on)
    first, second = (load_encoder(run.encoder) for run in runs if run.encoder is not None)
    encoder = interpolate(first, second, share).to(device)
    _estimate_norms(encoder, trial, splits, device)
    scores = search_scores(
        encoder,
        splits.probe,
        splits.validation,
        classes=splits.classes,
        config=trial.evaluation,
        generator=make_generator(trial.seed, ATTACK, trial.pretraining.epochs - 1),
    )
    save_encoder(folder / ENCODER, encoder.cpu(), trial.encoder)
    save_heads(folder / HEADS, scores.heads, trial.evaluation.head)
    metrics = scores.metrics()
    measures = metrics.pop("measures")
    return {**metrics, **measures, "eval_seconds": time.perf_counter() - started, "epoch": 1, "done": True}


def _estimate_norms(
    encoder: "SelfSupervisedEncoder", trial: TrialConfig, splits: "Splits", device: "torch.device"
) -> None:
    """Estimate batch norm's statistics on the first minibatches of the first epoch, without perturbations."""
    import torch  # noqa: PLC0415 (slow to import)

    from cfamc_ray.method.norms import estimating_norms  # noqa: PLC0415
    from cfamc_ray.method.parallel import DistributedContext  # noqa: PLC0415
    from cfamc_ray.training.minibatches import Minibatches  # noqa: PLC0415

    stage = trial.at_epoch(1)
    dtype = next(encoder.parameters()).dtype
    minibatches = Minibatches(stage, splits.pretrain, DistributedContext(device=device), dtype=dtype)
    order_n, at_once = minibatches.order(0), stage.pretraining.views_at_once or stage.crops.views
    steps = range(min(MINIBATCHES, stage.minibatches_per_epoch))
    with torch.no_grad(), estimating_norms(encoder):
        for step in steps:
            for crops_vBCHW in minibatches.crops(order_n, 0, step).split(at_once):
                encoder(crops_vBCHW.flatten(0, 1))
