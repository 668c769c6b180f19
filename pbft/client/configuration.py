"""Where a client finds its cluster and its key.

Rules of this file: reads the configuration and one key file; opens no connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pbft.config import ConfigError, Group, is_client
from pbft.config_file import ClusterConfig
from pbft.crypto import HandshakeConfig, PrivateKey, PublicKey, SigningIdentity, client_id, read_private_key
from pbft.transport import Address, Limits


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is and whom it talks to."""

    group: Group
    key: PrivateKey
    principal: int
    addresses: Mapping[int, Address]

    def handshake(self, entropy: Callable[[int], bytes] = os.urandom) -> HandshakeConfig:
        """What this client brings to every handshake."""
        keys = [PublicKey(raw) for raw in self.group.replicas]
        return HandshakeConfig(
            cluster=self.group.cluster,
            epoch=self.group.epoch,
            principal=self.principal,
            identity=SigningIdentity(self.key, self.group.cluster, self.principal, 0),
            instance=entropy(16),
            lookup=lambda principal: keys[principal] if principal < len(keys) else None,
            entropy=entropy,
        )

    def limits(self) -> Limits:
        """Bounds of the links: the largest message that a replica of this cluster sends must fit."""
        t = self.group.tunables
        largest = max(t.batch_max_bytes, t.result_max_bytes * 2, t.operation_max_bytes) * 2 + (1 << 20)
        heartbeat = t.heartbeat_interval / 1000
        return Limits(
            message_max_bytes=largest,
            queue_max_bytes=max(64 << 20, 2 * largest),
            client_queue_max_bytes=max(16 << 20, 2 * largest),
            heartbeat_interval=heartbeat,
            dead_after=max(3.0, 6 * heartbeat),
        )


def load_identity(
    config: str | os.PathLike[str] | ClusterConfig,
    name: str | None = None,
    key: PrivateKey | None = None,
    addresses: Mapping[int, Address] | None = None,
) -> Identity:
    """Read the configuration and the client's private key; blocks for a moment.

    `name` may be left out where the file lists one client only, or where `key` is given. `addresses` overrides those
    of single replicas. Raises ConfigError and `pbft.crypto.KeyFileError`.
    """
    cluster = ClusterConfig.load(config) if isinstance(config, (str, os.PathLike)) else config
    if key is None:
        if name is None:
            names = [client.name for client in cluster.clients]
            if len(names) != 1:
                listed = ", ".join(names) or "none"
                raise ConfigError(f"{cluster.path}: say as which client to connect; the file lists: {listed}")
            name = names[0]
        cluster.client(name)
        key = read_private_key(cluster.client_key_path(name))
    principal = client_id(key.public)
    if principal not in cluster.group.clients:
        who = f"client {name!r}" if name is not None else "the given client"
        raise ConfigError(
            f"{cluster.path}: the key of {who} is not listed under [[client]]; list {key.public.text()} and restart "
            "the replicas"
        )
    assert is_client(principal)
    where = {replica.id: (replica.address.host, replica.address.port) for replica in cluster.replicas}
    return Identity(cluster.group, key, principal, where | dict(addresses or {}))
