"""`--engine auto`: which engine, size, decoder, steps and schedule hold the wanted rate on this machine."""
