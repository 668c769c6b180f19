"""The client proxy: believes what f+1 replicas vouch for. `Client` for trio, `BlockingClient` for everything else.

`ClientCore` is the same proxy without I/O, for simulators and other event loops.
"""

from pbft.client.blocking import BlockingClient
from pbft.client.calls import Call
from pbft.client.core import ClientCore
from pbft.client.errors import (
    ClientClosed,
    ClientError,
    OperationFailed,
    OutcomeUnknown,
    Overloaded,
    RequestRejected,
    RequestTimeout,
)
from pbft.client.replicas import ClientStatistics, ReplicaStatistics
from pbft.client.shell import Client

__all__ = [
    "BlockingClient",
    "Call",
    "Client",
    "ClientClosed",
    "ClientCore",
    "ClientError",
    "ClientStatistics",
    "OperationFailed",
    "OutcomeUnknown",
    "Overloaded",
    "ReplicaStatistics",
    "RequestRejected",
    "RequestTimeout",
]
