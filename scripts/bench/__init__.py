"""Speed and memory, side by side with peers. Compare ratios within one run, not absolute figures."""
