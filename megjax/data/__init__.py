"""Training sets as pure functions of a store and an index."""
