"""The FUSE kernel protocol, spoken directly on the device. Linux only."""
