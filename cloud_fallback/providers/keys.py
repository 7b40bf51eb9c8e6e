"""Where providers' keys come from: the environment, by each company's own convention, or the
keyring of the operating system."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from spillover.cloud_fallback.providers.dialects.registry import DialectName
from spillover.cloud_fallback.providers.provider import ProviderSettings
from spillover.cloud_fallback.providers.secret import Secret
from spillover.runtime.errors import SpilloverError

SERVICE = "spillover"
"""What the keyring files our keys under."""

_NAMES = ".names"
"""Under this name, which no provider can have, the names of those with a key are kept."""

CONVENTIONS: dict[DialectName, tuple[str, ...]] = {
    "openai": ("OPENAI_API_KEY",),
    "azure": ("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "vertex": ("GOOGLE_API_KEY",),
    "cohere": ("CO_API_KEY", "COHERE_API_KEY"),
    "huggingface": ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    "bedrock": ("AWS_BEARER_TOKEN_BEDROCK",),
}


class KeyringFailed(SpilloverError):
    """The operating system's keyring cannot be used; says what to do instead."""


class Ring(Protocol):
    """A store of passwords, as the keyring package has it."""

    def get_password(self, service: str, username: str) -> str | None: ...
    def set_password(self, service: str, username: str, password: str) -> None: ...
    def delete_password(self, service: str, username: str) -> None: ...


class Keys:
    """*environ*: the environment's variables. *ring* None: the operating system's keyring, which
    is loaded when it is first needed."""

    def __init__(self, environ: Mapping[str, str], ring: Ring | None = None) -> None:
        self._environ = environ
        self._ring = ring

    def find(self, settings: ProviderSettings) -> Secret | None:
        """The key of a provider; None: there is none.

        Looks at key_variable, then at the company's own variables, then in the keyring under the
        provider's name. The company's variables only count for an address of its own or of this
        device: a key never goes to a host it was not given for.
        """
        for name in variables_of(settings):
            if found := self._variable(name):
                return found
        return self._stored(settings.name)

    def store(self, provider: str, key: str) -> None:
        """Put *key* into the keyring. Raises KeyringFailed."""
        try:
            self._keyring().set_password(SERVICE, provider, key)
            self._write_names({*self.names(), provider})
        except Exception as error:
            raise _failed(error) from None

    def delete(self, provider: str) -> bool:
        """Take the key of *provider* out of the keyring; whether one was there."""
        if self._stored(provider) is None:
            return False
        try:
            self._keyring().delete_password(SERVICE, provider)
            self._write_names({*self.names()} - {provider})
        except Exception as error:
            raise _failed(error) from None
        return True

    def names(self) -> list[str]:
        """The providers whose keys the keyring has."""
        listed = self._stored(_NAMES)
        return sorted(filter(self.is_stored, listed.reveal().split() if listed else ()))

    def is_stored(self, provider: str) -> bool:
        """Whether the keyring has a key of *provider*."""
        return self._stored(provider) is not None

    def variable_in_use(self, variables: Iterable[str]) -> str | None:
        """The first of *variables* that is set."""
        return next(filter(self._variable, variables), None)

    def _write_names(self, names: Collection[str]) -> None:
        """A keyring cannot be asked what is in it, so that is kept in it too."""
        if names:
            self._keyring().set_password(SERVICE, _NAMES, " ".join(sorted(names)))
        elif self.is_stored(_NAMES):
            self._keyring().delete_password(SERVICE, _NAMES)

    def _variable(self, name: str) -> Secret | None:
        value = self._environ.get(name, "").strip()
        return Secret(value, name) if value else None

    def _stored(self, provider: str) -> Secret | None:
        try:
            value = self._keyring().get_password(SERVICE, provider)
        except Exception:
            # Of any kind: backends let through what D-Bus or a locked store throw. A device
            # without a keyring simply has no keys in it.
            return None
        return Secret(value, "keyring") if value else None

    def _keyring(self) -> Ring:
        if self._ring is None:
            import keyring  # slow

            found: Any = keyring
            self._ring = found
        assert self._ring is not None
        return self._ring


def variables_of(settings: ProviderSettings) -> tuple[str, ...]:
    """The variables that may hold the key of a provider, the best one first."""
    if settings.key_variable is not None:
        return (settings.key_variable,)
    if not settings.is_at_home or (settings.dialect == "vertex" and settings.project):
        return ()  # A project of Vertex AI is entered with tokens.
    return CONVENTIONS.get(settings.dialect, ())


def advice(settings: ProviderSettings) -> str:
    """What to do when there is no key."""
    stored = f"run `spillover keys set {settings.name}`"
    if variables := variables_of(settings):
        return f"there is no key: set {variables[0]}, or {stored}"
    return f"there is no key for {settings.address}: {stored}, or name its variable in key_variable"


def _failed(error: Exception) -> KeyringFailed:
    return KeyringFailed(
        f"this device's keyring cannot be used ({type(error).__name__}): set the environment "
        "variable of the provider instead"
    )
