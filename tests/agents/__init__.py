"""The shells around the domain, without a broker."""
