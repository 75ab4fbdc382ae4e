"""What every other part stands on: errors, units, files, progress."""
