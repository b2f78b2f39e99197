"""The audit trail: chains of hashes verified, records read by what an auditor asks, reports."""
