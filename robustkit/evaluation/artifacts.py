"""What a finished run leaves in its folder: report, page, and the broken examples as a data set."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustkit.data import LabelledImages
from robustkit.evaluation.records import Records
from robustkit.files import StreamedTensor, safetensors, write_atomically
from robustkit.report import EvasionReport, Picture, write, write_html

PICTURES = 16


def write_artifacts(
    folder: Path, report: EvasionReport, data: LabelledImages, records: Records
) -> None:
    """Write `report.json`, `report.html` and `examples.safetensors` into the run's folder.

    The last holds the broken examples: `inputs` (as changed), `labels` (the right classes),
    `answers` and `ids`, in the order in which they fell. It can be given to `--data`.

    Raises:
        BadInput: Writing there is not allowed.
        CannotWrite: The disk is full; the records are kept, so that the run can be resumed.
    """
    kept = sorted(
        (place, row, answer)
        for group in records.groups
        for place, row, answer in zip(group.points or [], group.rows, group.labels, strict=False)
        if place is not None
    )
    rows = np.array([row for _, row, _ in kept], np.int64)
    points = records.points()
    tensors = {
        "inputs": StreamedTensor("F32", points.shape, (point.tobytes() for point in points)),
        "labels": _integers(data.labels.numpy()[rows]),
        "answers": _integers(np.array([answer for _, _, answer in kept], np.int64)),
        "ids": _integers(data.ids.numpy()[rows]),
    }
    write_atomically(folder / "examples.safetensors", safetensors(tensors))
    shown = sorted(kept, key=lambda found: found[1])[:PICTURES]
    pictures = [_picture(report, data, points, *found) for found in shown]
    write_html(report, folder / "report.html", pictures)
    # Last: whoever finds a report finds all that belongs to it.
    write(report, folder)


def _integers(values: np.ndarray[Any, Any]) -> StreamedTensor:
    return StreamedTensor("I64", values.shape, (values.tobytes(),))


def _picture(
    report: EvasionReport,
    data: LabelledImages,
    points: np.ndarray[Any, Any],
    place: int,
    row: int,
    answer: int,
) -> Picture:
    example = report.examples[row]
    names = dict(enumerate(data.class_names))
    return Picture(
        id=example.id,
        label_name=names[example.label],
        answer_name=names.get(answer, str(answer) if answer >= 0 else "no answer"),
        attack=example.attack or "",
        distance=example.distance or 0.0,
        clean=data.inputs([row])[0],
        changed=torch.from_numpy(points[place].copy()),
    )
