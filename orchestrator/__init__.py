"""The host half: builds, starts, watches and removes the service. Knows container runtimes; never tokens or blocks."""
