"""Deterministic services, each a model of how to write one. Imports only pbft.application."""

if __name__ != "pbft.apps":
    raise ImportError("this package is imported as pbft.apps, never under its bare folder name")
