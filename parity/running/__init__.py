"""Runs models on probes and writes down what they compute: one module per framework, and functions as models."""
