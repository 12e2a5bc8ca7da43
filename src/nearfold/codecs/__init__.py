"""A fold, then a quantiser, as one value that encodes a base and prepares queries."""
