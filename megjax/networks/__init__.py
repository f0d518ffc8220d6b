"""Flax linen networks: every module names its layers."""
