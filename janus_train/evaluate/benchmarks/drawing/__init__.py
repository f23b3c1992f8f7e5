"""Benchmarks of image generation: GenEval and DPG-Bench. The model draws here; a scorer of its own environment judges."""
