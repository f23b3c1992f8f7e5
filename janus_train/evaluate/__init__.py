"""Evaluations of a model, found by name; `janus_train.demo` has the demonstration's."""
