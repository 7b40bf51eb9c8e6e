"""spillover prefixes: what of conversations is kept on disk, and how to remove it."""

from __future__ import annotations

from pathlib import Path

import click

from spillover.edge_server.commands.options import load_config, setting_options
from spillover.edge_server.commands.output import print_json, print_note, print_result
from spillover.runtime.kv_cache.prefix_files import prefix_folder, remove_all, stored_size
from spillover.runtime.options import EngineOptions

_EPILOG = """\b
Examples:
  spillover prefixes
  spillover prefixes --clear

prefix_disk says what is kept there: nothing ("off"), long instructions and tools that were used
twice ("instructions", the default), or all that is long ("all"). A running server may go on.
"""


@click.command("prefixes", epilog=_EPILOG)
@click.option("--clear", is_flag=True, help="Remove all of it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options([])
def command(clear: bool, as_json: bool, config_flag: Path | None) -> None:
    """Show how much of what models have read is kept on disk, or remove it."""
    options = load_config({}, config_flag).settings.engine
    if clear:
        n, n_bytes = remove_all(options.cache_dir)
        print_note(f"removed {n} file{'s' * (n != 1)}, {n_bytes / 2**20:.1f} MiB")
    if as_json:
        n, n_bytes = stored_size(options.cache_dir)
        folder = str(prefix_folder(options.cache_dir))
        print_json({"keeps": options.prefix_disk, "folder": folder, "n": n, "bytes": n_bytes})
    else:
        print_result(prefixes_on_disk(options))


def prefixes_on_disk(options: EngineOptions) -> str:
    """What is kept, how much there is, and where."""
    n, n_bytes = stored_size(options.cache_dir)
    kept = {"off": "nothing is kept", "all": "all that is long"}.get(
        options.prefix_disk, "long instructions and tools"
    )
    size = f"{n} file{'s' * (n != 1)}, {n_bytes / 2**20:.1f} MiB"
    where = prefix_folder(options.cache_dir)
    return f"{kept} (prefix_disk = {options.prefix_disk}); on disk: {size}, in {where}"
