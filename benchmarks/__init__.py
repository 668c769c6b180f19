"""Measurements: the cluster against an unreplicated server, in one run, alternately. `pbft bench` runs them.

Timings of one machine are compared with each other only, as ratios of two things measured in the same run.
"""

if __name__ != "pbft.benchmarks":
    raise ImportError("this package is imported as pbft.benchmarks, never under its bare folder name")
