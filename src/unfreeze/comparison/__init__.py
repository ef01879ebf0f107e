"""Two models side by side: `diff` lists what differs, `verify` checks a model against its source."""
