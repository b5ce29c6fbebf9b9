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
    kept = _kept(report, records)
    rows = np.array([row for _, row, _ in kept], np.int64)
    points = records.points()
    shape = (len(kept), *points.shape[1:])
    tensors = {
        "inputs": StreamedTensor("F32", shape, (points[place].tobytes() for place, _, _ in kept)),
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


def _kept(report: EvasionReport, records: Records) -> list[tuple[int, int, int]]:
    """Place, example and answer of one point for each broken example, in the order of places.

    Of several, it is the one that most of a random model's draws for choosing fell for, and the
    first of those.
    """
    best: dict[int, tuple[int, int, int]] = {}
    for group in records.groups:
        places = group.points or []
        wins = group.selected or [1] * len(places)
        for place, row, answer, won in zip(places, group.rows, group.labels, wins, strict=False):
            if place is None or report.examples[row].status != "broken":
                continue
            known = best.get(row)
            if known is None or (-won, place) < known[:2]:
                best[row] = (-won, place, answer)
    return sorted((place, row, answer) for row, (_, place, answer) in best.items())


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
