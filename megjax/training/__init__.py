"""The training loop, what it writes and what is read back."""
