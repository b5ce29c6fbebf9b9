"""Data that is published so that nobody can train on it, and the audit of such data."""
