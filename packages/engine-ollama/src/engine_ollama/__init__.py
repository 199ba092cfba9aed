"""LLaMA-3 served by Ollama."""
