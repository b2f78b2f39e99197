"""A storm over deliveries: sinks die, pause, come and go while destinations misbehave by script; then every request is recounted."""
