"""How many connections an address may have of which nobody knows whose they are.

    accept -> Addresses.take -> Place -> leave: a token that the server knows came, or the connection ended

Many devices behind one address are welcome, as each shows its token; who shows none can't fill the server alone.
"""

from __future__ import annotations

import ipaddress

NETWORK_BITS = 64  # of IPv6: what one customer gets, and can choose addresses from as he likes


class Addresses:
    """Places of each address, at most `most` at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[str, int] = {}

    def take(self, host: str) -> Place | None:
        """A place for a connection from an IP address; None: it has all of its own."""
        key = origin(host)
        taken = self._taken.get(key, 0)
        if taken >= self._most:
            return None
        self._taken[key] = taken + 1
        return Place(self, key)

    def give_back(self, key: str) -> None:
        """One place. Addresses without any are forgotten."""
        left = self._taken.pop(key) - 1
        if left:
            self._taken[key] = left


class Place:
    """Taken until `leave`, which may be called again."""

    def __init__(self, addresses: Addresses, key: str) -> None:
        self._addresses: Addresses | None = addresses
        self._key = key

    def leave(self) -> None:
        """Make room for another connection of the same address."""
        if self._addresses is not None:
            self._addresses.give_back(self._key)
            self._addresses = None


def origin(host: str) -> str:
    """Whose an IP address is: itself, or its network of IPv6; an IPv4 address in IPv6's notation is itself."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), NETWORK_BITS), strict=False))
