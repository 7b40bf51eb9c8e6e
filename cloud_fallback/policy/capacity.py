"""Policies about the device: what it cannot do, now or ever."""

from __future__ import annotations

from collections.abc import Callable

from spillover.cloud_fallback.policy.observation import Observation, Policy
from spillover.cloud_fallback.policy.reason import CapacityCode, Reason
from spillover.cloud_fallback.policy.settings import PolicySettings

BUSY_SHARE = 0.3
"""Below this use of the processor a low clock rate saves energy: it is not throttling."""

# --- room and queues ----------------------------------------------------------------------------


def worker_gone(observation: Observation) -> Reason | None:
    """The local model's process has died and is not back, or does not respond."""
    status = observation.status
    if status.state not in ("restarting", "failed", "closed", "hung"):
        return None
    return Reason(code="crash", signals={"n_restarts": status.n_restarts})


def queue_too_long(observation: Observation) -> Reason | None:
    """Too many requests are waiting already."""
    status, most = observation.status, observation.settings.queue_length
    if status.n_queued < most:
        return None
    signals = {"n_queued": float(status.n_queued), "queue_length": float(most)}
    return Reason(code="queue", signals=signals)


def prompt_too_long(observation: Observation) -> Reason | None:
    """The prompt does not fit in the context, or leaves too little room for an answer."""
    n, n_ctx = observation.signals.n_prompt_tokens, observation.local.n_ctx
    if n is None or not n_ctx or n + _room_wanted(observation) <= n_ctx:
        return None
    return Reason(code="context", signals={"n_prompt_tokens": float(n), "n_ctx": float(n_ctx)})


def kv_cache_full(observation: Observation) -> Reason | None:
    """The running answers leave no KV cells for this prompt, and other requests already wait for
    cells.

    Cells of finished conversations do not count: they are freed on demand.
    """
    n, n_kv = observation.signals.n_prompt_tokens, observation.local.n_kv
    status = observation.status
    if n is None or not n_kv or not status.n_queued:
        return None
    held = sum(slot.n_tokens for slot in status.slots if slot.state != "idle")
    if held + n + _room_wanted(observation) <= n_kv:
        return None
    return Reason(code="kv_full", signals={"n_kv_held": float(held), "n_kv": float(n_kv)})


def _room_wanted(observation: Observation) -> int:
    """Tokens that the prompt must leave for the answer."""
    least, most = observation.settings.least_room_tokens, observation.request.max_tokens
    return max(min(least, most) if most is not None else least, 1)


def out_of_context(observation: Observation) -> Reason | None:
    """The answer was cut off before max_tokens: the context is full."""
    end, most = observation.end, observation.request.max_tokens
    if end is None or end.reason != "length" or observation.request.n != 1:
        return None
    n = end.usage.completion_tokens
    if most is not None and n >= most:
        return None
    return Reason(code="context", signals={"n_tokens": float(end.usage.prompt_tokens + n)})


# --- speed --------------------------------------------------------------------------------------


def decodes_slowly(observation: Observation) -> Reason | None:
    """Decoding has fallen below the floor of tokens per second."""
    rate, floor = observation.signals.rate, observation.settings.decode_floor
    if rate is None or rate >= floor:
        return None
    return Reason(code="slow", signals={"tokens_per_s": rate, "decode_floor": floor})


WAITS: dict[CapacityCode, Callable[[PolicySettings], float]] = {
    "queue": lambda settings: settings.queue_s,
    "ttft": lambda settings: settings.first_token_s,
    "kv_full": lambda settings: settings.stall_s,
    "slow": lambda settings: settings.stall_s,
}
"""What a silent answer may wait for (see Signals.wait), and the longest wait in seconds."""


def waits_too_long(code: CapacityCode) -> Policy:
    """The policy for one kind of wait."""

    def policy(observation: Observation) -> Reason | None:
        waits_for, since = observation.signals.wait
        waited, limit = observation.now - since, WAITS[code](observation.settings)
        if waits_for != code or waited < limit:
            return None
        return Reason(code=code, signals={"waited_s": waited, "limit_s": limit})

    return policy


# --- sensors ------------------------------------------------------------------------------------


def memory_low(observation: Observation) -> Reason | None:
    share, low = observation.device.memory_share, observation.settings.memory_low
    if share is None or share > low:
        return None
    return Reason(code="memory", signals={"memory_available": share, "memory_low": low})


def memory_free(observation: Observation) -> bool:
    share = observation.device.memory_share
    return share is None or share >= observation.settings.memory_recovered


def processor_hot(observation: Observation) -> Reason | None:
    celsius, high = _temperature(observation)
    if celsius is None or celsius < high:
        return None
    return Reason(code="thermal", signals={"temperature_c": celsius, "temperature_high_c": high})


def cooled(observation: Observation) -> bool:
    settings = observation.settings
    celsius, high = _temperature(observation)
    margin = settings.temperature_high_c - settings.temperature_recovered_c
    return celsius is None or celsius <= high - margin


def _temperature(observation: Observation) -> tuple[float | None, float]:
    """The temperature, and the limit: the lower of the setting's and the sensor's own."""
    device, high = observation.device, observation.settings.temperature_high_c
    return device.temperature_c, min(high, device.temperature_limit_c or high)


def battery_low(observation: Observation) -> Reason | None:
    device, low = observation.device, observation.settings.battery_low
    if not device.on_battery or device.battery_share is None or device.battery_share > low:
        return None
    return Reason(code="battery", signals={"battery": device.battery_share, "battery_low": low})


def charged(observation: Observation) -> bool:
    share = observation.device.battery_share
    if share is None or not observation.device.on_battery:
        return True
    return share >= observation.settings.battery_recovered


def processor_throttled(observation: Observation) -> Reason | None:
    """The processor works hard at a low clock rate, and decoding has become slower."""
    device, settings, signals = observation.device, observation.settings, observation.signals
    rate, best = signals.rate, signals.best_rate
    frequency, busy = device.frequency_share, device.busy_share
    if frequency is None or frequency > settings.frequency_low:
        return None
    if busy is None or busy < BUSY_SHARE or rate is None or rate > settings.slowed_to * best:
        return None
    return Reason(code="throttled", signals={"tokens_per_s": rate, "best_tokens_per_s": best})
