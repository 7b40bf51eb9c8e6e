"""What calls of this device cost, and so what fits between two tokens of running streams."""
