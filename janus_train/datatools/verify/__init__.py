"""Every sample of a data set looked at before training does: digests, images, templates, lengths.

run.py: plan.py (what to look at, in pieces) -> check.py (a sample; a tar) by pool.py (processes) -> summary.py (the table)
"""
