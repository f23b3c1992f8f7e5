"""What to check and measure on a GPU: ``python -m benchmarks.gpu`` (or ``make gpu``); README.md beside this file."""
