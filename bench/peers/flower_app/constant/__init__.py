"""A federation whose nodes add a constant to the model."""
