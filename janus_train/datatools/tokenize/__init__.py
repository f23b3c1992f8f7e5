"""Caches VQ codes in shards: each tar is rewritten with codes beside its images, and the new tar replaces the old one.

share.py (which process this is) -> run.py (its tars) -> rewrite.py (a tar and its codes -> a new tar)
                                                      -> data/shards/replace.py (the new one takes its place)
"""
