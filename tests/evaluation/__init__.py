"""Tests of the evaluation: its verdicts, records, guards and costs."""
