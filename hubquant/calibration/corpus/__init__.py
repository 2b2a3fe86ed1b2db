"""A text to calibrate on, built of several sources: without near duplicates, and with languages in balance."""
