"""Providers' wire formats as pure functions: a request to bytes, events to events. No IO."""
