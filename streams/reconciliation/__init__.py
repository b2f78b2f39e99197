"""What one store holds beside what another one does, difference by difference, each with the event that explains it. Repairs are events."""
