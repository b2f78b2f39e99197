"""A storm over the real pipeline: processes die, pause, come and go while seeded traffic flows; then everything is recounted."""
