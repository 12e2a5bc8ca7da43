"""Migrate: folded vectors beside the full ones in the database that holds them.

`base` says what a database must be able to do, one module a database does it, and `migrating` fills,
verifies and tells how to query, whichever it is.
"""
