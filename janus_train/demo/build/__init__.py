"""What the demonstration starts from: the embedded shards and the base of the tiny model."""
