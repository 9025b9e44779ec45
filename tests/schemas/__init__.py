"""Golden and released event schemas, and the compatibility check."""
