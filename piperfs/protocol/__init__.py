"""The wire: messages, frames and one session state machine that does no I/O."""
