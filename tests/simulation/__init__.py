"""A seeded simulation of the whole pipeline in one process: everything from one number, every failure replays exactly."""
