"""The engine: torch, and nothing of Qt, OSC, OpenCV or the registry."""
