"""Training methods as records of pure functions."""
