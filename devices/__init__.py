"""Device files: one board per YAML, every number with its source."""
