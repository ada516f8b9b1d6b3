"""The judge judged: mutants to find and to name, changes not to miss, emptiness not to let pass."""
