"""Speed and memory, measured side by side with what else there is; ratios within one run count, not seconds."""
