"""What everything registered must keep to."""
