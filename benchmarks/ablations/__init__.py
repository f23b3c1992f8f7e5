"""The papers' ablations on the demonstration: ``python -m benchmarks.ablations``."""
