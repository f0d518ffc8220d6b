"""Densities to sample: targets with known moments, logistic regressions, posteriors with reference moments."""
