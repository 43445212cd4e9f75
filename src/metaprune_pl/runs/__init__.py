"""What surrounds a command: the context it runs in, its folder with its lock, and what it cost."""
