"""What linear algebra says of an encoder, without data or from moments alone."""
