"""The configuration file: where it is, and what it contains."""

from __future__ import annotations

import os
import stat
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spillover.edge_server.config.setting_type import expanded
from spillover.edge_server.errors import ConfigError

VARIABLE = "SPILLOVER_CONFIG"


def locate(flag: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: from the flag, else from the variable, else the user's own if it exists.

    Raises ConfigError if a file was named and does not exist.
    """
    if flag is not None:
        return _present(expanded(flag), "--config")
    if environ.get(VARIABLE):
        return _present(expanded(environ[VARIABLE]), VARIABLE)
    own = user_path()
    return own if own.is_file() else None


def target(flag: Path | None, environ: Mapping[str, str]) -> Path:
    """The file to write, which may not exist yet: as locate() chooses it."""
    named = flag or environ.get(VARIABLE)
    return expanded(named) if named else user_path()


def expect_writable(path: Path) -> None:
    """Raises ConfigError where write() is bound to fail."""
    path = path.resolve()
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(f"{path} cannot be written: it is not a file")
    folder = next(parent for parent in path.parents if os.path.exists(parent))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{path} cannot be written: no file can be made in {folder}")


def write(path: Path, text: str) -> None:
    """Replace the file in one step, and keep who may read it; a new one is the user's alone.

    Raises ConfigError.
    """
    expect_writable(path)  # a device would be replaced by a file
    path = path.resolve()  # a link stays a link
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
        fd, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(fd, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            os.chmod(name, mode)
            os.replace(name, path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def user_path() -> Path:
    """The path of the user's own configuration file."""
    import platformdirs  # slow, and not needed if a file is named

    return platformdirs.user_config_path("spillover", appauthor=False) / "config.toml"


def read(path: Path) -> dict[str, Any]:
    """The keys and values in *path*. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of many digits
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def warning_if_shared(path: Path) -> str | None:
    """A warning if other users may read *path*, which holds a secret."""
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return f"{path} holds API keys, and other users can read it: run chmod 600 {path}"
    return None


def _present(path: Path, source: str) -> Path:
    if not path.is_file():
        raise ConfigError(f"{source}: there is no file {path}")
    return path
