"""What asks connected systems: conversations, polls and streams, their cursors, and who of several processes leads them."""
