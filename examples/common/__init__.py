"""What the lessons share: the command, results as files and tables, figures, a verdict on trained models."""
