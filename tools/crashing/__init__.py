"""Crashes of all kinds, and the checks of what must have survived them."""
