"""The engine on a real broker: exactly once under kill -9, fencing, poison, clean stop."""
