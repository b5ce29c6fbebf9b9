"""What a training leaves for others: weights in safetensors and a description beside them."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustkit import models
from robustkit.data import LabelledImages
from robustkit.threat_models import ThreatModel
from robustkit.training.describing import describe
from robustkit.training.mixing import Extra
from robustkit.training.recipe import Recipe
from robustkit.training.result import TrainResult


def prepare(
    spec: str, arguments: Mapping[str, Any], data: LabelledImages, *, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """The model to be trained, in eval mode, and the arguments to build it with again.

    Args:
        spec: What `models.load` takes. An untrained architecture is built for the data; what comes
            with weights is trained further.
        arguments: Of an untrained architecture, such as `mean` and `std`.
        data: What it will learn from.
        seed: Of new weights.

    Raises:
        BadInput: See `models.load` and `models.rebuild`.
    """
    if not models.needs_weights(spec):
        return models.load(spec, classes=data.classes, channels=data.shape[0]), dict(arguments)
    complete = {
        "classes": data.classes,
        "channels": data.shape[0],
        "size": data.shape[1],
        **arguments,
    }
    model = models.rebuild(models.recipe(spec, {**complete, "seed": seed}))
    return model.eval(), complete


def record(
    recipe: Recipe,
    threat: ThreatModel,
    data: LabelledImages,
    result: TrainResult,
    *,
    extra: Extra | None = None,
) -> dict[str, Any]:
    """How a model came about, as JSON.

    Args:
        recipe: What was asked for, complete.
        threat: The adversary it was trained against.
        data: What it learnt from, held-out examples included.
        result: What came out.
        extra: What it learnt from beside that.
    """
    best = next((entry for entry in result.history if entry["epoch"] == result.best.epoch), {})
    table = {key: value for key, value in recipe.table.items() if key != "published"}
    arguments = recipe.table.get("model_arguments", {})
    return {
        "threat": describe(threat),
        "preprocessing": {
            "range": [0.0, 1.0],
            "mean": arguments.get("mean"),
            "std": arguments.get("std"),
        },
        "training": {
            "recipe": table,
            "data": {
                "spec": data.spec,
                "split": data.split,
                "n": len(data),
                "sha256": data.sha256,
            },
            "extra": None if extra is None else extra.record(),
            "epoch": result.best.epoch,
            "stopped_by": result.stopped_by,
            "scores": {key: value for key, value in best.items() if key.startswith("held_out")},
            "versions": {
                "robustkit": importlib.metadata.version("robustkit"),
                "torch": torch.__version__,
            },
        },
    }


def publish(
    model: nn.Module,
    folder: Path,
    *,
    spec: str,
    arguments: Mapping[str, Any],
    about: Mapping[str, Any],
) -> None:
    """Write a trained model so that `robustkit evaluate --model FOLDER` takes it.

    Args:
        model: With the weights to be published.
        folder: Where; checkpoints there are left alone.
        spec: As given to `prepare`.
        arguments: As `prepare` returned them.
        about: As `record` gives it.

    Raises:
        BadInput, CannotWrite: See `models.save`.
    """
    models.save(model, folder, spec=spec, arguments=arguments, about=about)
