"""spillover engines: compare the engines for a GGUF file now, and say which one serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from spillover.edge_server.commands.engines.progress import shown_progress
from spillover.edge_server.commands.engines.report import lines_of, report_on
from spillover.edge_server.commands.loading import (
    default_memory,
    default_options,
    model_entry,
)
from spillover.edge_server.commands.options import load_config, model_argument, setting_options
from spillover.edge_server.commands.output import print_json, print_note, print_result
from spillover.models.libraries import INSTALL_LLAMA, has_llama
from spillover.models.onnx_folder import is_onnx
from spillover.runtime.backend import DecodeFailed
from spillover.runtime.errors import SpilloverError

_EPILOG = """\b
Examples:
  spillover engines ~/models/qwen3-0.6b-Q4_K_M.gguf
  spillover engines ~/models/m.gguf --threads 4 --parallel 1 --json
  spillover engines ~/models/m.gguf --again

The file is converted for ONNX Runtime, the conversion is compared with what llama.cpp computes, and
both are measured, unless that is known for this device; --again forgets it first, and what has
failed. `spillover serve` does the same in the background. The figures mean something only while the
device is otherwise idle.
"""


@click.command("engines", epilog=_EPILOG)
@model_argument
@click.option("--again", is_flag=True, help="Convert, compare and measure once more.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options(("n_threads", "n_parallel"))
def command(again: bool, as_json: bool, config_flag: Path | None, **flags: Any) -> int:
    """Find out which engine is faster with MODEL (default: the one pulled last, or the bundled)."""
    settings = load_config(flags, config_flag).settings
    options, path, code = default_options(settings), model_entry(settings).path.absolute(), 0
    if not is_onnx(path):
        from spillover.quantize.conversion.compare import prepare  # slow

        try:
            with shown_progress(False) as progress:
                prepare(path, options, progress, measures=True, again=again)
        except (SpilloverError, DecodeFailed) as error:
            remedy = "" if has_llama() else f"; for llama.cpp: {INSTALL_LLAMA}"
            print_note(f"spillover: the engines cannot be compared: {error}{remedy}")
            code = 1
    report = report_on(path, options, default_memory(settings))
    if as_json:
        print_json(report)
    else:
        print_result("\n".join(lines_of(report)))
    return code
