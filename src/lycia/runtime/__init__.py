"""The loop, and what it needs from the world."""
