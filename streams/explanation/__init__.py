"""The whole way of an event, from its source to each destination, by what the history has of it."""
