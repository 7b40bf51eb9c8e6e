"""What can go wrong below a provider's answer.

    HttpError
    ├── NotReached      no connection: the name, the route, the port, or the certificate
    ├── Broken          the connection broke, or the bytes are not HTTP
    ├── TimedOut        a deadline passed
    ├── Cancelled       another thread ended the exchange
    └── Malformed       the bytes are not events of this format, or an event is too large

CloudEngine translates these to ProviderErrors; nobody outside cloud_fallback sees them.
"""

from __future__ import annotations


class HttpError(Exception):
    """Base of these errors. Its text may be shown to a user and quotes nothing of the request."""


class NotReached(HttpError):
    """No connection could be made."""


class Broken(HttpError):
    """The connection broke, or the peer does not speak HTTP."""


class TimedOut(HttpError):
    """The exchange's deadline passed. The message says what it waited for."""


class Cancelled(HttpError):
    """Exchange.cancel() was called, or the Http was closed."""


class Malformed(HttpError):
    """The bytes cannot be cut into events."""
