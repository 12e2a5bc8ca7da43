"""One reading of the data, here or on a cluster: moments, neighbours and samples."""
