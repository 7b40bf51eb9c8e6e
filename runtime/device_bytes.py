"""Memory in bytes, of each device apart."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

from msgspec import Struct


class DeviceBytes(Struct, frozen=True, kw_only=True):
    """Memory of the host, and of each GPU that has its own, in llama.cpp's order. What a GPU
    shares with the host is the host's."""

    host: int = 0
    gpus: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        return self.host + sum(self.gpus)

    def beyond(self, other: DeviceBytes) -> DeviceBytes:
        """What of this *other* does not hold, on each device."""
        pairs = zip_longest(self.gpus, other.gpus, fillvalue=0)
        return DeviceBytes(
            host=max(self.host - other.host, 0), gpus=tuple(max(a - b, 0) for a, b in pairs)
        )

    def shares_a_device(self, other: DeviceBytes) -> bool:
        """Whether both have something of the same memory."""
        pairs = ((self.host, other.host), *zip(self.gpus, other.gpus, strict=False))
        return any(a > 0 and b > 0 for a, b in pairs)


def together(all_of_them: Iterable[DeviceBytes]) -> DeviceBytes:
    """Their sum."""
    parts = list(all_of_them)
    columns = zip_longest(*(part.gpus for part in parts), fillvalue=0)
    return DeviceBytes(host=sum(part.host for part in parts), gpus=tuple(map(sum, columns)))
