"""What a file or a folder is, and what is wrong with it, without running it."""
