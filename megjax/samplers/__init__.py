"""Markov chain kernels and the distributions they target."""
