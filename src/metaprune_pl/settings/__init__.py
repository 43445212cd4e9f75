"""From YAML, flags and signatures to typed settings, and short errors where that fails."""
