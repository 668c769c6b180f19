"""Authenticated links between principals: framing, TCP, in-memory. Imports only pbft.crypto."""

if __name__ != "pbft.transport":
    raise ImportError("this package is imported as pbft.transport, never under its bare folder name")
