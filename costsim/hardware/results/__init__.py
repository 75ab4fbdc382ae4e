"""All that was measured: records, files of them, and their comparison with predictions."""
