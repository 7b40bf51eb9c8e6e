"""What a command says about its work."""

from __future__ import annotations

import click

from spillover.edge_server.commands.terminal import safe


def tell(text: str) -> None:
    """Print *text* on standard error; it may quote a model or a file."""
    click.echo(safe(text), err=True)
