"""vLLM's engine in this process, one request at a time."""
