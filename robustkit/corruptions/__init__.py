"""Common corruptions: what weather, sensors and coders do to images, with nobody choosing it."""

from typing import TYPE_CHECKING

from robustkit.lazy import exports

# A public name is written twice: below for type checkers (`from x import Name as Name`), and in
# the table for Python, which imports it on first use.
if TYPE_CHECKING:
    from robustkit.corruptions.catalogue import corrupt as corrupt
    from robustkit.corruptions.parameters import FAMILIES as FAMILIES
    from robustkit.corruptions.parameters import NAMES as NAMES
    from robustkit.corruptions.parameters import SEVERITIES as SEVERITIES
    from robustkit.corruptions.parameters import parameter_set as parameter_set
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "corrupt": "catalogue",
            "FAMILIES": "parameters",
            "NAMES": "parameters",
            "SEVERITIES": "parameters",
            "parameter_set": "parameters",
        },
    )
