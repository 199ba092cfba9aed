"""The speed of light: an engine that reads the weights and computes nothing."""
