"""Imports and exports models: the official layout, transformers' layout, the hub, and models assembled from base parts."""
