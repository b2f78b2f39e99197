"""Loyalty events -> records of connected systems: the newest state of each member, never an older one. README.md says how, and what it promises."""
