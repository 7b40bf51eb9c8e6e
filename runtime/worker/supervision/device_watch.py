"""What happens to the device while a worker lives: it saves power, and it sleeps."""

from __future__ import annotations

import logging
from collections.abc import Callable

from spillover.runtime.machine.device import gpu_names, power_now
from spillover.runtime.machine.power_saving import PowerSaver
from spillover.runtime.options import EngineOptions
from spillover.runtime.worker import protocol

_log = logging.getLogger(__name__)


class DeviceWatch:
    """Of one model, through all of its workers. The heartbeat's thread looks."""

    def __init__(self, name: str, options: EngineOptions) -> None:
        self._name = name
        self._is_auto = options.power_saving == "auto"
        self._saver = PowerSaver()
        self._gpus = gpu_names()
        self.saves_because = "power_saving is on" if options.power_saving == "on" else ""
        """Why power is saved; empty: it is not."""

    def look_at_power(self, send: Callable[[protocol.Command], None]) -> None:
        """Begin or end the saving; *send* tells the worker."""
        if not self._is_auto:
            return
        before, reason = self.saves_because, self._saver.look(power_now())
        self.saves_because = reason
        if bool(before) != bool(reason):
            send(protocol.SavePower(is_on=bool(reason)))
        if before != reason:
            how = f"saves power: {reason}" if reason else "saves no power"
            _log.info("%s %s", self._name, how)

    def gpus_lost(self, slept_s: float) -> list[str]:
        """The GPUs that are gone after the device has slept for *slept_s* seconds."""
        gpus = gpu_names()
        _log.info("the device has slept for %.0f s; its GPUs: %s", slept_s, gpus or "none")
        lost, self._gpus = set(self._gpus) - set(gpus), gpus
        return sorted(lost)
