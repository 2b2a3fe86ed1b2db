"""Where a model comes from: a Hub repository, a local folder, the demo model in the package, or a GGUF file."""
