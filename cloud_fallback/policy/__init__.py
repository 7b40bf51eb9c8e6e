"""Signals of a running answer, and the pure policies that decide on a handoff."""
