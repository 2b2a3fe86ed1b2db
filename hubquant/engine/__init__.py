"""What runs work, whatever the work is."""
