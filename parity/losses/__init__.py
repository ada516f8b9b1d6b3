"""Are two losses the same? What they are asked, the verdict, and the name of the mistake."""
