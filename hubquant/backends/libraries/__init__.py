"""Python libraries that hold weights in fewer bits."""
