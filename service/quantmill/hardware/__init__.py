"""The matcher: what runs where, what fits, what to choose."""
