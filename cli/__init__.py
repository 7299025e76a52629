"""The command line of eokit, one file a verb. Installed as `eokit_cli`."""
