"""Launches that several rungs share."""
