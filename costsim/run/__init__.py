"""Where gradients run: the program in PyTorch, behind a module, and the scores of channels."""
