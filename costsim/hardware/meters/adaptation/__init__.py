"""A whole adaptation, run on this machine and measured phase by phase."""
