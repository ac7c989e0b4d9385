"""The networks. They know torch alone."""
