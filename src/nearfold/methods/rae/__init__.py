"""The RAE family: solvers, penalties, and the network."""
