"""What a fitted fold is, and how it is kept in a file."""
