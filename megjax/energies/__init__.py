"""Energies in closed form: exponential families, spin models, machines with hidden units."""
