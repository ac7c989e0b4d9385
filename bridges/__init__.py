"""Where pictures and control messages cross to other programs."""
