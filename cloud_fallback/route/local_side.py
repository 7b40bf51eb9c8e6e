"""A local model as routes see it: its engine, what its owner allows, and its policies."""

from __future__ import annotations

import threading
from pathlib import Path

from spillover.cloud_fallback.events import HandoffMode
from spillover.cloud_fallback.policy.local_policy import LocalPolicy
from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.runtime.engine import TextEngine
from spillover.runtime.errors import SpilloverError
from spillover.runtime.events import WriterId


class LocalSide:
    """One for each local model. Any thread may use it; the router closes it."""

    def __init__(
        self,
        engine: TextEngine,
        settings: CloudSettings,
        data_dir: Path | None,
    ) -> None:
        """Of *settings* those count that may differ between models: what is allowed and preferred,
        the way of handoffs, the policies, the facts."""
        self.engine = engine
        self.routing: Routing = settings.routing
        """What the owner allows."""
        self.mode: HandoffMode = settings.route.mode
        self.policy_settings = settings.policy
        self._data_dir = data_dir
        self._facts = settings.facts
        self._lock = threading.Lock()
        self._policy: LocalPolicy | None = None

    @property
    def may_leave(self) -> bool:
        """Whether the owner lets anything of its answers leave the device, if only with consent."""
        return self.routing.fallback not in (None, "never")

    @property
    def writer(self) -> WriterId:
        return WriterId(origin="local", model=self.engine.name)

    def policy(self) -> LocalPolicy:
        """The policies of the model, which may still be loading."""
        with self._lock:
            if self._policy is None:
                try:
                    card = self.engine.card
                except SpilloverError:
                    return LocalPolicy(self.policy_settings, None, facts=self._facts)
                self._policy = LocalPolicy(
                    self.policy_settings, card, facts=self._facts, data_dir=self._data_dir
                )
            return self._policy

    def close(self) -> None:
        """Save what has been learned."""
        if self._policy is not None:
            self._policy.close()
