"""Shows what a run would be trained on, as JSON lines and as a page. It needs no model.

configuration -> drawn.py (the rows of each step) -> lines on standard output
                                                  -> tokens.py, strips.py, samples.py -> page.py -> one HTML file
"""
