"""How long text may be kept back: bounded in tokens and in time."""

from __future__ import annotations

from spillover.cloud_fallback.policy.settings import PolicySettings


class Hold:
    """One stretch of holding at a time; after one that used up its bounds no other begins before
    the doubt has gone."""

    def __init__(self, settings: PolicySettings) -> None:
        self._most_tokens = settings.hold_tokens
        self._most_s = settings.hold_s
        self._since: float | None = None
        self._n_tokens = 0
        self._used_up = False
        self.start_char: int | None = None
        """Where the text that is kept back begins; None: none is."""

    def step(self, wanted: bool, *, start_char: int, n_tokens: int, now: float) -> bool:
        """Whether to keep back a piece of text that begins at *start_char*."""
        if not wanted:
            self._used_up = False
            self.release()
            return False
        if self._used_up:
            return False
        if self._since is None:
            self._since, self._n_tokens, self.start_char = now, 0, start_char
        self._n_tokens += n_tokens
        if self._n_tokens > self._most_tokens or now - self._since > self._most_s:
            self._used_up = True
            self.release()
        return self.start_char is not None

    def release(self) -> None:
        self._since = self.start_char = None
