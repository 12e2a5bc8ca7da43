"""Files to files: fold or encode what is larger than memory."""
