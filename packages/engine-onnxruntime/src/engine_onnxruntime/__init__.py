"""LLaMA-3 as our own ONNX graph on ONNX Runtime."""
