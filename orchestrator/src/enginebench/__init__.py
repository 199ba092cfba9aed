"""enginebench: runs LLM inference engines side by side and checks its own numbers."""
