"""The demo: scenes composed of embedded images, and an evaluation on them. The core does not import this package."""
