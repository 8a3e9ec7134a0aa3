"""What the system calls mean, without knowing FUSE or the event loop."""
