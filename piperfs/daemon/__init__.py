"""Composition root: builds the parts of one replica, wires them and runs them."""
