"""How often streams are synchronised: which may wait, where they wait, and how they go on."""
