"""Talking to an engine: one conversation or one prompt. What is said of speed here is of one request, no benchmark."""
