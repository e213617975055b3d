"""Encoders made: export, quantization, and later what trains and evaluates them."""
