"""What is held of one member: all of it in one document (GDPR article 15), and its erasure with a receipt (article 17)."""
