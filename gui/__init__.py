"""The Qt window. It knows the registry and the statistics, never the engine."""
