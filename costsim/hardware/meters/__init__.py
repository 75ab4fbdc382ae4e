"""What measures a step where this process runs: bytes, seconds, joules and conditions."""
