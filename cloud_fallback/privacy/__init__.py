"""What may leave the device: consent, and redaction before it does."""
