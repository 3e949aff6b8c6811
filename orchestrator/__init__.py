"""The host half: builds, starts, watches and removes the service. Knows container runtimes, not tokens or blocks."""
