"""The demonstration: scenes composed of embedded images, and how well a model draws and understands them. The core does not import it."""
