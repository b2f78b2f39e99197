"""The decisions: pure functions over the contract's records. No Faust, no IO, no clock, no randomness; a test holds it."""
