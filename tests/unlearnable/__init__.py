"""Data that is published so that nobody can train on it."""
