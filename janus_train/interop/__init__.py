"""Weights in and out: the official layout, transformers' layout, the hub, and models put together from base parts."""
