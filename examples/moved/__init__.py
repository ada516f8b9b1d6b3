"""Trained recurrent networks that packages publish, moved into jaxrnn: `python -m examples.moved`."""
