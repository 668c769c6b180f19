"""Authenticated links between principals: framing, TCP, in-memory. Imports only pbft.crypto."""

if __name__ != "pbft.transport":
    raise ImportError("this package is imported as pbft.transport, never under its bare folder name")

from pbft.transport.errors import ListenError, TransportError
from pbft.transport.hub import Hub
from pbft.transport.interface import Address, AnyHub, Link, Receiver
from pbft.transport.limits import Limits
from pbft.transport.memory import MemoryNetwork
from pbft.transport.memory_hub import MemoryHub
from pbft.transport.statistics import HubStatistics, LinkStatistics, PeerStatistics

__all__ = [
    "Address",
    "AnyHub",
    "Hub",
    "HubStatistics",
    "Limits",
    "Link",
    "LinkStatistics",
    "ListenError",
    "MemoryHub",
    "MemoryNetwork",
    "PeerStatistics",
    "Receiver",
    "TransportError",
]
