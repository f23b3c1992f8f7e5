"""The commands of ``janus-train``, one module each; heavy imports stand inside the functions."""
