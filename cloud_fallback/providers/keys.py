"""Where providers' keys come from: environment variables, or the operating system's keyring."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from spillover.cloud_fallback.providers.credentials.secret import Secret
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.runtime.errors import SpilloverError

SERVICE = "spillover"
"""The keyring's name for us."""

_NAMES = ".names"
"""The keyring's entry that lists the providers with a key; no provider can have this name."""


class KeyringFailed(SpilloverError):
    """The operating system's keyring cannot be used; the message says what to do instead."""


class Ring(Protocol):
    """A store of passwords, as the keyring package has it."""

    def get_password(self, service: str, username: str) -> str | None: ...
    def set_password(self, service: str, username: str, password: str) -> None: ...
    def delete_password(self, service: str, username: str) -> None: ...


class Keys:
    """Finds, stores and deletes keys.

    *environ*: the environment variables. *ring* None: the operating system's keyring, loaded when
    it is first needed.
    """

    def __init__(self, environ: Mapping[str, str], ring: Ring | None = None) -> None:
        self._environ = environ
        self._ring = ring

    def find(self, settings: ProviderSettings) -> Secret | None:
        """The key of a provider, or None.

        Looks at key_variable, else at the company's own variables, then in the keyring under the
        provider's name. The company's variables count only for its own hosts and this device: a
        key never goes to a host it was not given for.
        """
        for name in settings.key_variables:
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
        """Delete the key of *provider* from the keyring; False: there was none."""
        if self._stored(provider) is None:
            return False
        try:
            self._keyring().delete_password(SERVICE, provider)
            self._write_names({*self.names()} - {provider})
        except Exception as error:
            raise _failed(error) from None
        return True

    def names(self) -> list[str]:
        """The providers with a key in the keyring."""
        listed = self._stored(_NAMES)
        return sorted(filter(self.is_stored, listed.reveal().split() if listed else ()))

    def is_stored(self, provider: str) -> bool:
        """Whether the keyring has a key of *provider*."""
        return self._stored(provider) is not None

    def variable_in_use(self, variables: Iterable[str]) -> str | None:
        """The first of *variables* that is set."""
        return next(filter(self._variable, variables), None)

    def _write_names(self, names: Collection[str]) -> None:
        """A keyring cannot list its entries, so it holds this list too."""
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
            # Of any kind: backends pass on what D-Bus or a locked store raises. A device without a
            # keyring simply has no keys in it.
            return None
        return Secret(value, "keyring") if value else None

    def _keyring(self) -> Ring:
        if self._ring is None:
            import keyring  # slow

            found: Any = keyring
            self._ring = found
        assert self._ring is not None
        return self._ring


def advice(settings: ProviderSettings) -> str:
    """What to do when there is no key."""
    stored = f"run `spillover keys set {settings.name}`"
    if variables := settings.key_variables:
        return f"there is no key: set {variables[0]}, or {stored}"
    return f"there is no key for {settings.address}: {stored}, or name its variable in key_variable"


def _failed(error: Exception) -> KeyringFailed:
    return KeyringFailed(
        f"this device's keyring cannot be used ({type(error).__name__}): put the key into the "
        "company's usual variable, or into one that you name (key_variable, --key-variable)"
    )
