"""Tests of robustkit.threat_models."""
