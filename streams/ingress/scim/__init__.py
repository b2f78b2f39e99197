"""SCIM 2.0: identity providers and HR systems write to the ordinary topics; see README.md."""
