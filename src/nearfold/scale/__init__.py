"""Work on files of any size: fit, fold and update, on this machine or on a cluster."""
