"""LLaMA-3 as our own TensorRT network, on TensorRT and on TensorRT for RTX."""
