"""sdv2live: a live AI video effect with StreamDiffusionV2.

Importing this package is cheap on purpose: torch, OpenCV and PyAV are imported by the rooms that
need them, when they are needed.
"""

__version__ = "0.1.0"
