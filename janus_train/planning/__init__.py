"""Arithmetic on a run before and while it runs: FLOPs, memory, communication, time.

It needs a configuration and the counts of what the rows contain, but no model, GPU or data.
"""
