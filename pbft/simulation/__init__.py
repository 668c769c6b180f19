"""Seeded simulation of whole clusters: the production protocol, execution, storage and client code on a virtual
network, virtual disks and a virtual clock, driven by one ordered heap. A seed replays exactly.

Not on trio, whose scheduling is deliberately random. Nothing here reads a clock, iterates over sets, or hashes objects.
"""
