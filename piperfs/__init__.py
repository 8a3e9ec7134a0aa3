"""PiperFS: one folder on all your computers, mounted, offline as well as online."""
