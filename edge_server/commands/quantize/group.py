"""spillover quantize: the commands that make a model smaller, and say what that costs."""

from __future__ import annotations

import click

from spillover.edge_server.commands.quantize.evaluate import evaluate
from spillover.edge_server.commands.quantize.imatrix import imatrix
from spillover.edge_server.commands.quantize.plan import plan
from spillover.edge_server.commands.quantize.report import report
from spillover.edge_server.commands.quantize.run import run

_EPILOG = """\b
Examples:
  spillover quantize run model-F16.gguf model-Q4_K_M.gguf
  spillover quantize eval model-F16.gguf model-Q4_K_M.gguf
  spillover quantize run model-F16.gguf model-IQ3_M.gguf --type IQ3_M --imatrix auto
"""


@click.group("quantize", epilog=_EPILOG)
def command() -> None:
    """Quantize a model."""


command.add_command(run)
command.add_command(evaluate)
command.add_command(report)
command.add_command(imatrix)
command.add_command(plan)
