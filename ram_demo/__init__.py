"""RAM Demo: see alignment happen, token by token (Residual Alignment Model, arXiv 2505.19700)."""

__version__ = "0.1.0"
