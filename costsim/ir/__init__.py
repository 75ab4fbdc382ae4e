"""What a training step is: operators, the layer graph, the update plan, and the program they make."""
