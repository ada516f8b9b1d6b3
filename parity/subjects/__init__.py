"""Small models outside the recurrence that exist twice, for the judge to be judged by.

The torch side is written as a user would write it; on the JAX side every part that a mistake can be made in is a
function that can be exchanged. `table.SUBJECTS` has both, with the probes that show the mistakes.
"""
