"""Threat models: who the adversary is, when it acts, what it sees, may change and spend."""

from typing import TYPE_CHECKING

from robustkit.lazy import exports

# A public name is written twice: below for type checkers (`from x import Name as Name`), and in
# the table for Python, which imports it on first use.
if not TYPE_CHECKING:
    __getattr__, __dir__, __all__ = exports(__name__, {})
