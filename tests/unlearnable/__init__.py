"""Tests of unlearnable data."""
