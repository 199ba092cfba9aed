"""TensorRT-LLM's LLM API in this process, one request at a time."""
