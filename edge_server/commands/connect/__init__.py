"""spillover connect: from an address or a company's name to a provider that is known to work."""
