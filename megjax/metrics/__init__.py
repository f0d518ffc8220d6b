"""Arrays to numbers: mixing, Frechet and energy distances, coverage."""
