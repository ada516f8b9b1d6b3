"""The reference in float64, the independent witnesses it must agree with, and what both know of one probe."""
