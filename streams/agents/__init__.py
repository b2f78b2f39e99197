"""Shells: a batch of records -> the domain -> tables and outbound topics. Named by what they do; no rule about points in here."""
