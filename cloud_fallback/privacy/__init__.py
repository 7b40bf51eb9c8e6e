"""What must not leave the device is taken out before a request does, and put back in the answer."""
