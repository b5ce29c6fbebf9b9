"""Values that are given as `key=value`, and lists with commas."""

import tomllib
from typing import Any

from robustkit.errors import BadInput


def setting(text: str, option: str, form: str = "key=value") -> tuple[str, Any]:
    """Key and value; the value as TOML reads it, and what it cannot read is a word.

    Args:
        text: As it was given.
        option: Where, such as `--set`.
        form: What it should look like, for the message.

    Raises:
        BadInput: It has no key or no value.

    Example:
        >>> setting("steps=5", "--set"), setting("radius=8/255", "--set")
        (('steps', 5), ('radius', '8/255'))
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadInput(f"{option} {text!r} is not understood. Write {option} {form}.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def parts(text: str, option: str, what: str) -> list[str]:
    """What stands between the commas of an option.

    Raises:
        BadInput: Nothing, somewhere.
    """
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise BadInput(f"{option} {text!r} has an empty {what} between commas. Take it out.")
    return found
