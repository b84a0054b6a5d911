"""ONNX: encoders and what a head makes of them, as graphs for other runtimes; written, never read."""
