"""The log -> every destination: lanes per (destination, member), in order through everything, no destination in another's way."""
