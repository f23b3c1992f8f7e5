"""Raw data to indexed WebDataset shards (``janus-train prepare``).

    inputs --format.plan--> units --format.items, in any number of processes--> samples in order --output--> shards

A unit is a small piece of the input that can be read alone. Units are converted in parallel and written in order by
one writer, so that the same input gives the same bytes on any number of processes, and a run that was killed goes on
from its last whole shard. Images keep their bytes where training can read them; no address in a record is fetched.
"""
