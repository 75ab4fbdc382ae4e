"""What a step costs: of one plan in full, and of all plans at once."""
