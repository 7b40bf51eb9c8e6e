"""Signals, policies, consent and cloud providers: moves a running answer to the cloud and back."""
