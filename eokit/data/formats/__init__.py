"""Published data sets, one file each; a new one is one new file and one line in the registry."""
