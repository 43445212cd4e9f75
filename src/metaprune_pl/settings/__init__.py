"""From YAML, flags and a function's signature to typed settings, and short errors where that fails."""
