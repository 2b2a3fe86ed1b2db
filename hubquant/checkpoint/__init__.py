"""How a model's folder stores its config and weights: names, headers, storage formats, in plain floats."""
