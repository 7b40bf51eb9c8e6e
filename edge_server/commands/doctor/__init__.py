"""spillover doctor: what it checks, and how it shows what it found."""
