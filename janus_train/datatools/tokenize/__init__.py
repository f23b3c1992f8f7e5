"""Codes cached in shards: each tar is rewritten with the codes of its images beside them, and swapped in.

share.py (which process this is) -> run.py (its tars) -> rewrite.py (a tar and its codes -> a new tar)
                                                      -> data/shards/replace.py (the new one takes its place)
"""
