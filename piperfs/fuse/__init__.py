"""Adapters that turn kernel requests into calls of `piperfs.fs`."""
