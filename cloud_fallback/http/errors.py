"""What may go wrong below a provider's answer.

    HttpError
    ├── NotReached      no connection: the name, the route, the port, or the certificate
    ├── Broken          the connection broke, or its bytes are not HTTP
    ├── TimedOut        a deadline passed
    ├── Stopped         another thread ended the call
    └── Malformed       the bytes are no events of this framing, or too large ones

Nobody outside cloud_fallback sees these: CloudEngine says them as ProviderErrors.
"""

from __future__ import annotations


class HttpError(Exception):
    """Base of these errors; its text is fit for a user and holds nothing of the request."""


class NotReached(HttpError):
    """No connection came about."""


class Broken(HttpError):
    """The connection broke, or what came is not HTTP."""


class TimedOut(HttpError):
    """The call's deadline passed; its text says what was waited for."""


class Stopped(HttpError):
    """Call.stop() was called."""


class Malformed(HttpError):
    """What came cannot be cut into events."""
