"""What learns: fine-tuning, meta-training, and the adaptation to one task by any method."""
