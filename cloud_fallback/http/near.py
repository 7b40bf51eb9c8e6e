"""Which addresses are this device's own, or those of the local network."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network

_NEAR_NAMES = (".local", ".lan", ".home", ".internal", ".home.arpa", ".localhost")
_NEAR_NETWORKS = tuple(
    map(
        ip_network,
        (
            "127.0.0.0/8",
            "::1/128",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)
"""Loopback, private and link-local addresses (RFC 1122, 1918, 3927, 4193, 4291)."""


def is_near(host: str) -> bool:
    """Whether *host* is this device or on the LAN, as far as its name or address tells: plain names
    as of a router or of Docker, names that no company can own, and the addresses above."""
    try:
        address = ip_address(host)
    except ValueError:
        name = host.rstrip(".").lower()
        is_plain = name.isascii() and name[:1].isalpha() and "." not in name
        return is_plain or name.endswith(_NEAR_NAMES)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in _NEAR_NETWORKS)
