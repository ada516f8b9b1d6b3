"""Are two optimizers the same? The registered pairs, the verdict on replayed gradients, and which mistake it is."""
