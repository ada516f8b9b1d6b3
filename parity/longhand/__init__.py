"""Models spelled out, step by step and part by part, over any array library.

The same few lines run on NumPy (a witness for the oracle), on PyTorch in float64 (which also differentiates
them) and in JAX. Each part of a model is a function that can be exchanged, so that a mistake is one exchanged
part: planted in a candidate it is a mutant, planted in the reference it is a hypothesis about a candidate.
"""
