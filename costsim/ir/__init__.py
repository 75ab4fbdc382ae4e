"""What a training step is: operators, layer graph, update plan, and the program they make."""
