"""What a run would be trained on, without a model: as JSON lines and as a page.

configuration -> drawn.py (the rows of each step) -> lines on standard output
                                                  -> tokens.py, strips.py, samples.py -> page.py -> one HTML file
"""
