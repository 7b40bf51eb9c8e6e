"""Options that commands share: every setting, and the fields of a request."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from msgspec import Struct

from spillover.edge_server.commands.output import print_note
from spillover.edge_server.config import setting_type
from spillover.edge_server.config.config import Config, load
from spillover.edge_server.config.setting_list import Setting, setting_list
from spillover.edge_server.logs import log_to_stderr

Command = TypeVar("Command", bound=Callable[..., Any])

CONVERSATION_SETTINGS = (
    "fallback",
    "prefer",
    "engine",
    "n_ctx",
    "n_threads",
    "n_gpu_layers",
    "kv_cache_type",
    "temperature",
    "seed",
    "n_predict",
    "chat_template",
    "chat_template_file",
)
"""The settings that are flags of commands with one conversation."""

_FILE = click.Path(path_type=Path, dir_okay=False)


def setting_options(names: Sequence[str] | None = None) -> Callable[[Command], Command]:
    """Add --config and the options of the settings *names* that have a flag; None: of all."""

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
    """Add MODEL, and --model for those who are used to it: the model to load."""
    function = click.option(
        "-m",
        "--model",
        "model_flag",
        metavar="MODEL",
        help="The same as the argument: a name of `spillover models`, GGUF file, or ONNX folder."
        "  [default: the model pulled last, or the bundled one]",
    )(function)
    return click.argument("model", required=False)(function)


def load_config(
    flags: dict[str, Any], config_flag: Path | None, api_key_file: Path | None = None
) -> Config:
    """The settings in force. Warnings go to stderr, and so does the log from here on.

    Raises ConfigError, and UsageError where MODEL and --model differ.
    """
    model, other = flags.get("model"), flags.get("model_flag")
    if model and other and model != other:
        raise click.UsageError(f"MODEL is {model!r} and --model {other!r}: leave one out")
    flags = flags | {"model": model or other}
    config = load(flags, environ=os.environ, config_flag=config_flag, api_key_file=api_key_file)
    for warning in config.warnings:
        print_note(f"spillover: warning: {warning}")
    log_to_stderr(config.settings.log_level)
    return config


def default_text(struct: type[Struct], name: str) -> str:
    """The default of a request's field, as help texts show it."""
    return setting_type.show(_field(struct, name).default)


def parse_field(struct: type[Struct], name: str, text: object, source: str) -> Any:
    """*text* as the field's type. Raises ConfigError, which names *source*."""
    annotation = _field(struct, name).type
    return setting_type.parse(text, annotation, name=name, source=source, from_text=True)


def _field(struct: type[Struct], name: str) -> msgspec.structs.FieldInfo:
    return next(field for field in msgspec.structs.fields(struct) if field.name == name)


def _option(setting: Setting) -> Callable[[Command], Command]:
    """Its value stays text: the configuration checks it as it checks every other source."""
    repeated = "; may be repeated" if setting.is_list else ""
    return click.option(
        *filter(None, (setting.flag, setting.other_flag)),
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
