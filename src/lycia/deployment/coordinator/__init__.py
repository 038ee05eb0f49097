"""The coordinator: it keeps the runs, and never sees data or runs a researcher's code."""
