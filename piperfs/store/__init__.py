"""The durable state of one replica, and the one write path into it."""
