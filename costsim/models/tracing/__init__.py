"""From a PyTorch model to its layer graph, through `torch.export`."""

from costsim.models.tracing.capture import Traced, capture, capture_program, check_example, trace

__all__ = ["Traced", "capture", "capture_program", "check_example", "trace"]
