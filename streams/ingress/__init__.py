"""Outside -> topic: REST, webhooks and re-reading. What systems mean, streams/connectors/ says; nothing here decides about points."""
