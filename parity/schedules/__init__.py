"""Are two learning rate schedules the same?"""
