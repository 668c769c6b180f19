"""A client whose authenticators convince a few replicas only ("Big MAC", 4 #1). All else it does as a correct one: what
is not answered it sends again, signed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from pbft.client import Client, ClientCore
from pbft.client.configuration import Identity
from pbft.config import Quorums
from pbft.crypto import AuthenticatorKey
from pbft.transport import AnyHub


def convinced(primary: int, count: int, quorums: Quorums) -> frozenset[int]:
    """`count` replicas: the primary, and those that follow it."""
    return frozenset((primary + i) % quorums.n for i in range(count))


def useless(key: AuthenticatorKey) -> AuthenticatorKey:
    """A key under which an entry looks right and verifies nowhere."""
    return AuthenticatorKey(key.key_id, bytes(len(key.key)))


class PartialCore(ClientCore):
    """Keeps useless keys for all replicas but `valid_for`, beginning with the primary that it believes in."""

    valid_for = 1

    def on_link_up(self, replica: int, key: AuthenticatorKey, now: float) -> None:
        """The link is up."""
        super().on_link_up(replica, self._bent(replica, key), now)

    def on_new_key(self, replica: int, key: AuthenticatorKey) -> None:
        """Told again and again: the primary may be another one by now."""
        super().on_new_key(replica, self._bent(replica, key))

    def _bent(self, replica: int, key: AuthenticatorKey) -> AuthenticatorKey:
        told = convinced(self._replicas.primary, self.valid_for, self._quorums)
        return key if replica in told else useless(key)


class PartialClient(Client):
    """See `PartialCore`."""

    def __init__(self, identity: Identity, make_hub: Callable[..., AnyHub], window: int) -> None:
        super().__init__(identity, make_hub, window)
        self._core = PartialCore(
            identity.group, identity.principal, identity.key.sign, os.urandom, random.Random(), window
        )
