"""Checks every sample of a data set before training: digests, images, templates, lengths.

run.py: plan.py (the work, in pieces) -> check.py (one sample) in pool.py (processes) -> summary.py (the table)
"""
