"""The options that commands share, made from the list of settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from spillover.edge_server.commands.talk import tell
from spillover.edge_server.config.config import Config, load
from spillover.edge_server.config.setting_list import Setting, setting_list
from spillover.edge_server.logs import log_to_stderr

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)


def setting_options(names: Sequence[str] | None = None) -> Callable[[Command], Command]:
    """An option for each of the settings *names* that has a flag (None: for all), and --config."""

    def decorate(function: Command) -> Command:
        function = click.option(
            "--config",
            "config_flag",
            type=_FILE,
            help="Configuration file.  [default: SPILLOVER_CONFIG, or the user's own]",
        )(function)
        for setting in reversed(setting_list()):
            if setting.flag and (names is None or setting.name in names):
                function = _option(setting)(function)
        return function

    return decorate


def model_argument(function: Command) -> Command:
    """MODEL: what model to load."""
    return click.argument("model", required=False)(function)


def model_option(function: Command) -> Command:
    """--model: what model to load, for commands whose argument is something else."""
    return click.option(
        "-m",
        "--model",
        metavar="MODEL",
        help="Catalogue name, GGUF file, or ONNX folder.  [default: the bundled model]",
    )(function)


def load_config(
    flags: dict[str, Any], config_flag: Path | None, api_key_file: Path | None = None
) -> Config:
    """The settings in force; warnings go to stderr, and so does the log from now on.
    Raises ConfigError."""
    config = load(flags, environ=os.environ, config_flag=config_flag, api_key_file=api_key_file)
    for warning in config.warnings:
        tell(f"spillover: warning: {warning}")
    log_to_stderr(config.settings.log_level)
    return config


def _option(setting: Setting) -> Callable[[Command], Command]:
    """Its value stays text, which the configuration checks like that of every other source."""
    repeated = "; may be repeated" if setting.is_list else ""
    return click.option(
        setting.flag,
        setting.name,
        multiple=setting.is_list,
        metavar=_metavar(setting),
        help=f"{setting.help}  [default: {setting.default_text}{repeated}]",
    )


def _metavar(setting: Setting) -> str:
    kind = setting.allowed
    if kind.startswith("one of "):
        return "[" + "|".join(kind.removeprefix("one of ").split(", ")) + "]"
    return "INTEGER" if "integer" in kind else "NUMBER" if "number" in kind else "TEXT"
