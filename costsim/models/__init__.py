"""How a model becomes a layer graph: built-in networks, tracing, and what a person may name."""
