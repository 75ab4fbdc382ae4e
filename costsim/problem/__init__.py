"""What a solver is asked, and what it answers."""
