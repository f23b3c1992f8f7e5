"""Arithmetic on a run before and while it runs: FLOPs, memory, communication, time.

Needs a configuration and what the rows hold; no model, no GPU, no data.
"""
