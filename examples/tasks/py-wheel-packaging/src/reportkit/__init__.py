"""Small reports."""

try:
    import colourlib
except ImportError:
    colourlib = None

__version__ = "1.4.0"
__all__ = ["colourlib", "__version__"]
