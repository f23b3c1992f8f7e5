"""The commands of ``janus-train``, one module each; heavy imports are inside the functions, so that --help is fast."""
