"""The `piperfs` command: parse, call, print."""
