"""Tools that work on data before training: prepare, index, verify, tokenize and inspect, one subpackage or module each."""
