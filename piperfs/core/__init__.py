"""Values and decisions of replication: no clock, no randomness, no files, no threads."""
