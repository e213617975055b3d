"""Text to embeddings over gRPC: one encoder bundle in ONNX Runtime."""
