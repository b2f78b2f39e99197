"""Balances as of any moment, by when things happened and by when they were known."""
