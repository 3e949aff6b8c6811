"""The host half: builds, starts, watches and removes the service. Knows container engines; never tokens or blocks."""
