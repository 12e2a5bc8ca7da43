"""Plan: which fold and quantiser keep most in the bytes there are, found on the user's own vectors.

`candidates` lists what is possible, `halving` finds out what is best, `choice` recommends.
"""
