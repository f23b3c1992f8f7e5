"""Published benchmarks: what the Janus papers report, asked and scored by one protocol.

    data (the user's) -> task.open -> items -> answers.jsonl -> score -> results.json, a table beside the papers' rows

A task is one module (`tasks`); a protocol is one file of prompts (``protocols/``); `run` is what they share.
"""
