"""`robustkit unlearn`: data that is published so that nobody can train on it."""

import click

from robustkit.cli.unlearn_audit import audit
from robustkit.cli.unlearn_make import make


@click.group()
def unlearn() -> None:
    """Publish data so that nobody learns much from it, and find out whether that works."""


unlearn.add_command(audit)
unlearn.add_command(make)
