"""Tests of the defenses."""
