"""Stand-ins for the systems on the other side of the pipeline: real servers that can be told to misbehave."""
