"""Plan, price and check sparse training on devices too small to train on."""

__version__ = "0.1.0"
