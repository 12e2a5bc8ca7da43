"""Pipelines: a fold, then a quantiser, as one value that encodes a base and prepares queries.

`spec` reads their names, `fitting` learns them, `pipeline` holds, applies and saves them.
"""
