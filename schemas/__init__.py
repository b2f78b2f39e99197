"""The contract: Avro schemas (`avro/*.avsc`), their stored history, the records generated from them, and the wire codec."""
