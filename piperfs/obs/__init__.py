"""Structured log events, metrics and health checks."""
