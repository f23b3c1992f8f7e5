"""Converts raw data to indexed WebDataset shards (``janus-train prepare``).

    inputs --format.plan--> units --format.items, in any number of processes--> samples in order --output--> shards

A unit is a small piece of the input that can be read alone. Units are converted in parallel and written in order by
one writer, so that the same input gives the same bytes on any number of processes, and a killed run resumes after its
last finished shard. Images keep their bytes if training can read them; nothing is downloaded.
"""
