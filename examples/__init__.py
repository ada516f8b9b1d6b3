"""The lecture "RNNs and LSTM" as programs; every module here runs with ``python -m examples.<name>``."""
