"""What a federation is, as values: no clock, no disk, no socket, no hidden randomness."""
