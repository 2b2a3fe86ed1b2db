"""The app in a browser: pages and routes around the public Python API, no work of its own."""
