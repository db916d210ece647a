"""Dataflows: the only place where sources, steps and the index meet."""
