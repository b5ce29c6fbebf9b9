"""Models from the user's own code, and how factories of models are called."""

import contextlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from robustkit.errors import BadInput, MissingFile, RobustkitError

OFFERED = ("classes", "channels", "size", "seed", "pretrained")


def call(factory: Callable[..., object], arguments: Mapping[str, object]) -> object:
    """Call a factory by keyword.

    Of `OFFERED`, only what is not None and what its signature names is given to it; all other
    arguments are given as they are.
    """
    try:
        known = set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        known = set()
    return factory(
        **{
            name: value
            for name, value in arguments.items()
            if name not in OFFERED or (value is not None and name in known)
        }
    )


def accepts(factory: Callable[..., object], name: str) -> bool:
    """Whether a factory's signature names the parameter `name`."""
    return name in inspect.signature(factory).parameters


def from_code(spec: str, options: Mapping[str, object]) -> nn.Module:
    """The model that a function of the user's makes. This runs that code.

    Args:
        spec: `path/file.py:factory` or `package.module:factory`. The file's folder can be imported
            from, as when Python runs that file; for a module, the working directory comes last. The
            attribute may be a function, a class, or a model itself.
        options: Offered to the factory, see `call`.

    Raises:
        MissingFile: There is no such file or module.
        BadInput: The code raises, has no such attribute, or gives something else than a model.
    """
    home, _, attribute = spec.rpartition(":")
    is_file = home.endswith(".py")
    if is_file and not Path(home).is_file():
        raise MissingFile(f"There is no file {home!r}, from which {attribute!r} was to be taken.")
    with _importable(Path(home) if is_file else None):
        module = _guarded(spec, lambda: _import_file(Path(home)) if is_file else _import(home))
        factory = getattr(module, attribute, None)
        if factory is None:
            raise BadInput(f"{home!r} has no {attribute!r}. It has: {_callables(module)}.")
        if isinstance(factory, nn.Module):
            return factory
        if not callable(factory):
            raise BadInput(f"{spec!r} is {_article(factory)}, not a function that makes a model.")
        model = _guarded(spec, lambda: call(factory, options))
    if not isinstance(model, nn.Module):
        raise BadInput(
            f"{spec!r} gave back {_article(model)}; a factory must return a torch.nn.Module."
        )
    return model


def _guarded(spec: str, action: Callable[[], Any]) -> Any:  # noqa: ANN401 - of any kind
    """Run the user's code; what it raises becomes bad input, with its message and its line."""
    try:
        return action()
    except RobustkitError:
        raise
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise BadInput(
            f"The code of {spec!r} failed with {type(error).__name__}: {error} "
            f"({Path(last.filename).name}, line {last.lineno})."
        ) from error


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise MissingFile(
                f"There is no module {error.name!r} to take the model from: it is neither "
                "installed nor in the working directory."
            ) from error
        raise


def _import_file(file: Path) -> ModuleType:
    name = f"_robustkit_user_{file.stem}"
    found = importlib.util.spec_from_file_location(name, file.resolve())
    if found is None or found.loader is None:
        raise BadInput(f"{str(file)!r} cannot be imported as Python code.")
    module = importlib.util.module_from_spec(found)
    # Dataclasses and pickles look their module up by name.
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _importable(file: Path | None) -> Iterator[None]:
    before = list(sys.path)
    if file is None:
        sys.path.append(str(Path.cwd()))
    else:
        sys.path.insert(0, str(file.resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before


def _callables(module: ModuleType) -> str:
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return ", ".join(sorted(own)) or "nothing that could make a model"


def _article(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
