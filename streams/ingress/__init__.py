"""Outside -> topic: REST, webhooks and re-reading. One pure translator per vendor; nothing here decides about points."""
