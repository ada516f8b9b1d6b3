"""What a divergence means: where the candidate leaves the reference, and which mistake that is."""
