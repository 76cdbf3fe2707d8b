"""Export a study: what others need to read, cite and extend it, with a card that describes it and checksums."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.front.front import Front, find_front
from cfamc_ray.front.interpolation import extend_front
from cfamc_ray.front.progress import counts
from cfamc_ray.host.files import write_text
from cfamc_ray.report.page import write_report
from cfamc_ray.store.content import content_of
from cfamc_ray.store.copies import copy_records
from cfamc_ray.store.images import noted_images, paths_of, with_paths
from cfamc_ray.store.interpolations import read_interpolations
from cfamc_ray.store.layout import (
    ATTAINMENT,
    CONFIRM,
    CONFIRM_TABLE,
    ENCODER,
    ENVIRONMENT,
    FRONT,
    HEADS,
    IMAGES,
    INTERPOLATION,
    PAGE,
    PRIOR,
    PRIOR_TABLE,
    REPORT,
    STUDY,
    TRIALS,
)
from cfamc_ray.store.records import read_config, read_trials
from cfamc_ray.store.trial_tables import trials_table

Encoders = Literal["front", "all", "none"]
CARD, SUMS = "README.md", "SHA256SUMS"
TABLES = (ENVIRONMENT, TRIALS, FRONT, CONFIRM_TABLE, ATTAINMENT, PRIOR_TABLE)


def export_study(study: Path, out: Path, *, encoders: Encoders = "front", onnx: bool = False) -> list[Path]:
    """Write a copy of a study for others: config, records, tables, report, encoders, a card and checksums.

    It is a study folder like any other, without what a machine needs to run it: paths of images, Optuna's storage,
    checkpoints, logs and TensorBoard's events.

    Args:
        study: folder of the study.
        out: new folder, or a new file that ends in .zip.
        encoders: trials whose encoders and linear probes are copied, as far as the study has kept them.
        onnx: whether each copied encoder, and a classifier for each operating point of the front, are also written as
            ONNX files.

    Returns:
        The copied files, relative to the exported folder.

    Raises:
        InputError: if the folder holds no study, if `out` exists, or if `onnx` lacks encoders or the extra ``onnx``.
    """
    if onnx and encoders == "none":
        raise InputError("--onnx converts copied encoders; use it with --encoders front or all")
    config, records = read_config(study), read_trials(study)
    front, interpolations = find_front(config, records), read_interpolations(study)
    between = [one for one, _ in extend_front(config, records, interpolations).members]
    if out.exists():
        raise InputError(f"{out}: exists already; name another place with --out")
    chosen = {"front": front.members, "all": records, "none": []}[encoders]
    chosen_between = {"front": between, "all": interpolations, "none": []}[encoders]
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that it appears whole or not at all.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        draft = Path(scratch) / config.name
        _copy(study, draft, {record.number for record in chosen}, {one.name for one in chosen_between})
        for inner in (study / CONFIRM, *sorted((study / PRIOR).glob("*"))):
            if (inner / STUDY).is_file():
                _copy(inner, draft / inner.relative_to(study))
        if onnx:
            _write_onnx(study, draft, front)
        for name in TABLES:
            if (study / name).is_file():
                shutil.copyfile(study / name, draft / name)
        _write_report(draft)
        models = sorted(path.relative_to(draft).as_posix() for path in draft.glob("trial_*/*.onnx"))
        trials = [config.trial_at(record.point) for record in chosen or front.members] or [config.trial]
        write_text(draft / CARD, _card(config, front, counts(config, records), trials, models))
        files = sorted(path.relative_to(draft) for path in draft.rglob("*") if path.is_file())
        sums = [f"{hashlib.sha256((draft / file).read_bytes()).hexdigest()}  {file.as_posix()}\n" for file in files]
        write_text(draft / SUMS, "".join(sums))
        made = Path(shutil.make_archive(str(draft), "zip", scratch, config.name)) if out.suffix == ".zip" else draft
        made.rename(out)
    return files


def _copy(study: Path, target: Path, trials: Collection[int] = (), interpolations: Collection[str] = ()) -> None:
    """Copy the records of a study without the paths of its images.

    Args:
        study: its folder.
        target: the new folder.
        trials: numbers of the trials whose weights are copied, too.
        interpolations: names of the interpolations whose weights are copied, too.
    """
    config = read_config(study)
    unplaced = with_paths(config, {key: Path(path.name) for key, path in paths_of(config).items()})
    copy_records(study, target, unplaced, weights_of=trials)
    for one in read_interpolations(study):
        weights = (ENCODER, HEADS) if one.name in interpolations else ()
        (target / one.name).mkdir()
        for name in (INTERPOLATION, *weights):
            shutil.copyfile(study / one.name / name, target / one.name / name)
    if noted := content_of(study / IMAGES, noted_images):
        digests = {key: {**images, "path": ""} for key, images in noted.items()}
        write_text(target / IMAGES, json.dumps(digests, indent=1) + "\n")


def _write_onnx(study: Path, draft: Path, front: Front) -> None:
    """Write the copied encoders, also of interpolations, and classifiers of the front's points, as ONNX files."""
    from cfamc_ray.evaluation.classifier import load_classifier  # noqa: PLC0415 (reading a study needs no torch)
    from cfamc_ray.evaluation.onnx import export_onnx  # noqa: PLC0415
    from cfamc_ray.method.encoder import load_encoder  # noqa: PLC0415

    for encoder in sorted(draft.glob(f"*/{ENCODER}")):
        folder, kept = encoder.parent, study / encoder.parent.name
        export_onnx(load_encoder(kept / ENCODER), folder / "encoder.onnx")
        for record in front.members:
            if record.trial_id == folder.name and record.l2 is not None and (folder / HEADS).is_file():
                export_onnx(load_classifier(kept, l2=record.l2), folder / f"classifier_l2_{record.l2!r}.onnx")


def _write_report(draft: Path) -> None:
    """Write the report, whose commands name the exported folder."""
    write_report(draft)
    page = draft / REPORT / PAGE
    write_text(page, page.read_text(encoding="utf-8").replace(str(draft), draft.name))


def _card(config: StudyConfig, front: Front, ended: str, trials: Sequence[TrialConfig], onnx: Sequence[str]) -> str:
    return "\n".join(_card_lines(config, front, ended, trials, onnx)) + "\n"


def _either(values: Iterable[object]) -> str:
    """All different values in words, in ascending order where they have one: ``8, 16 or 32``."""
    different = list(dict.fromkeys(values))
    with suppress(TypeError):
        different.sort()
    *others, last = (f"{value:,}" if isinstance(value, int) else str(value) for value in different)
    return f"{', '.join(others)} or {last}" if others else last


def _radius(evaluation: EvaluationConfig) -> str:
    linf = evaluation.norm == "linf"
    return f"l∞ radius of {255 * evaluation.epsilon:g}/255" if linf else f"l₂ radius of {evaluation.epsilon:g}"


def _card_lines(
    config: StudyConfig, front: Front, ended: str, trials: Sequence[TrialConfig], onnx: Sequence[str]
) -> Iterator[str]:
    architecture = _either(trial.encoder.architecture.name for trial in trials)
    images = _either(trial.data.pretrain_images for trial in trials)
    judged, evaluation = config.trial.judged_on, config.trial.evaluation
    yield f"# {config.name}\n"
    yield f"{config.question}\n" if config.question else ""
    yield (
        f"A study by cfamc_ray: {ended}; {front.sentence}. The encoders ({architecture}, width "
        f"{_either(trial.encoder.width for trial in trials)}) are pretrained without labels on {images} images of "
        f"{_either(trial.data.name for trial in trials)}. Accuracies are those of linear probes on their frozen "
        f"features, on {judged.validation_images:,} validation images of "
        f"{_either(trial.judged_on.name for trial in trials)}; robust accuracy is under "
        f"{_either(trial.evaluation.attack.label for trial in trials)} with an "
        f"{_either(_radius(trial.evaluation) for trial in trials)}, on {evaluation.attacked_images:,} of them at most. "
        "They were used to choose these points, so they are optimistic; `confirm.csv`, where it is there, has test "
        "images, fresh seeds and stronger attacks.\n"
    )
    yield "## The front\n"
    yield trials_table(config, front.members).without("status", "reason", "epochs").markdown()
    yield "## Use\n"
    yield "```python\nimport cfamc_ray\n"
    if front.members:
        trial = front.members[0].trial_id
        yield f'encoder = cfamc_ray.load_encoder("{config.name}/{trial}/encoder.safetensors")'
        if front.members[0].l2 is not None:
            strength = f"l2={front.members[0].l2!r}"
            yield f'classifier = cfamc_ray.load_classifier("{config.name}/{trial}", {strength})  # pixels from 0 to 1'
    yield f'study = cfamc_ray.open_study("{config.name}")\n```\n'
    if onnx:
        yield "Each encoder and each classifier of the front is also an ONNX file, which needs onnxruntime alone:\n"
        yield "```python\nimport onnxruntime\n"
        yield f'session = onnxruntime.InferenceSession("{config.name}/{onnx[0]}")'
        yield 'outputs = session.run(None, {"pixels": pixels})  # float32 (N, 3, height, width), from 0 to 1\n```\n'
    yield (
        f"`cfamc report {config.name}` writes the report anew; `cfamc train --trial {config.name}/TRIAL` trains a "
        f"point again; `cfamc tune --space {config.name}/{STUDY} --out . --resume --trials N` adds trials, with the "
        f"images in the folder that `CFAMC_DATA` names. `sha256sum -c {SUMS}` checks the files."
    )
