"""What became of deliveries, attempt by attempt: lists and inspection of what ClickHouse has of them, and another try for what was given up."""
