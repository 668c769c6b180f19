"""Keys, digests, handshakes, sessions, authenticators. Imports nothing of the rest of pbft."""

if __name__ != "pbft.crypto":
    raise ImportError("this package is imported as pbft.crypto, never under its bare folder name")
