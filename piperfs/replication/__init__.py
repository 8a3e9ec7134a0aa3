"""Connections to peers: trio and TLS around the sans-IO session."""
