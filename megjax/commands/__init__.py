"""The commands: each module has its flags, `main` and `run`."""
