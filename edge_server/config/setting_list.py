"""The list of all settings, read off the fields of Settings and of the structs within it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import Struct
from msgspec.structs import FieldInfo

from spillover.edge_server.config import setting_type
from spillover.edge_server.config.settings import Settings
from spillover.runtime.setting_help import Help, NoSetting, Table

StructType = TypeVar("StructType", bound=Struct)
Note = TypeVar("Note", Help, Table, NoSetting)


class Setting(Struct, frozen=True, kw_only=True):
    """One value that an owner can set."""

    name: str
    """As in the configuration file and in `spillover config`."""
    flag: str
    """Of `spillover serve`; empty when there is none."""
    other_flag: str
    variable: str
    help: str
    type: Any
    """The annotation of its field."""
    default: Any
    default_text: str
    is_secret: bool

    @property
    def is_list(self) -> bool:
        return isinstance(self.default, tuple)

    @property
    def allowed(self) -> str:
        """What it may be, in words: "an integer from 0 to 65535"."""
        words = setting_type.describe(self.type)
        either = f" or {setting_type.AUTO}"
        if self.default_text == "none" and words.endswith(either):
            return f"{words.removesuffix(either)}, or {setting_type.AUTO} for none"
        return words


def setting_list() -> tuple[Setting, ...]:
    """Every setting, in the order of the fields. Raises TypeError for a field without Help."""
    return _settings_in(Settings)


def table_list() -> tuple[FieldInfo, ...]:
    """The field of every table of the configuration file; `encode_name` is the table's name."""
    return tuple(field for field in _fields_in(Settings) if _note(field, Table) is not None)


def assemble(struct: type[StructType], values: Mapping[str, Any]) -> StructType:
    """A *struct*, and the structs within it, with *values* of settings and tables by name."""
    given = {}
    for field in msgspec.structs.fields(struct):
        if _is_group(field):
            given[field.name] = assemble(field.type, values)
        elif field.encode_name in values:
            given[field.name] = values[field.encode_name]
    return struct(**given)


@cache  # reading the types of the fields takes some milliseconds
def _settings_in(struct: type[Struct]) -> tuple[Setting, ...]:
    return tuple(_setting(field) for field in _fields_in(struct) if _note(field, Table) is None)


def _fields_in(struct: type[Struct]) -> tuple[FieldInfo, ...]:
    """The fields of *struct* and of the groups within it."""
    found: list[FieldInfo] = []
    for field in msgspec.structs.fields(struct):
        found += _fields_in(field.type) if _is_group(field) else [field]
    return tuple(field for field in found if _note(field, NoSetting) is None)


def _is_group(field: FieldInfo) -> bool:
    """Whether the field holds a struct of settings; a table is annotated."""
    return isinstance(field.type, type) and issubclass(field.type, Struct)


def _note(field: FieldInfo, kind: type[Note]) -> Note | None:
    notes = get_args(field.type)[1:] if get_origin(field.type) is Annotated else ()
    return next((note for note in notes if isinstance(note, kind)), None)


def help_of(field: FieldInfo) -> Help:
    """What the field says about itself. Raises TypeError if it says nothing."""
    help = _note(field, Help)
    if help is None:
        raise TypeError(
            f"the setting {field.encode_name} has no help: annotate its field with Help"
        )
    return help


def _setting(field: FieldInfo) -> Setting:
    name, help = field.encode_name, help_of(field)
    return Setting(
        name=name,
        flag=help.flag,
        other_flag=help.other_flag,
        variable=help.variable or f"SPILLOVER_{name.upper()}",
        help=help.text,
        type=field.type,
        default=field.default,
        default_text=help.default or setting_type.show(field.default),
        is_secret=help.is_secret,
    )
