"""Tests of robustkit.data."""
