"""The Unix socket between the command line and a running daemon."""
