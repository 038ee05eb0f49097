"""A federation over a network: a coordinator, and nodes that only call out."""
