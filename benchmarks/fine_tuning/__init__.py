"""Fine-tuning of the demonstration's model on new objects: ``python -m benchmarks.fine_tuning``."""
