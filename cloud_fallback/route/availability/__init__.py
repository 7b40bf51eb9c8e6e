"""Whether a provider may be asked now, and asked again after it has failed."""
