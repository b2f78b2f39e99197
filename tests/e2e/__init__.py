"""The whole path, through real processes: what a deployment does, and what it survives."""
