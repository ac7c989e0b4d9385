"""The files of the Wan engines: which there are, where they lie, and how they come here."""
