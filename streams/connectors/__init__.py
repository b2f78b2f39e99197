"""The connected systems: for each a declaration of settings and pure translators, in both directions."""
