"""Densities to sample: targets with known moments, posteriors of common models."""
