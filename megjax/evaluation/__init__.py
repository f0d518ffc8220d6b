"""Measurements of a trained model, each returning a report."""
